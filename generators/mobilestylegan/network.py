"""The networks of MobileStyleGAN (arXiv 2104.04767), for inference.

Its convolutions are modulated and depthwise separable, and its maps grow by an inverse Haar transform. The
demodulation does not depend on the style, and the published weights carry it. Maps are channels_last:
on a CPU the network takes about two thirds of the time it takes otherwise.
"""

from abc import ABC, abstractmethod
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "IMAGE_SIZE",
    "START",
    "STYLE_DIM",
    "WIDTHS",
    "Block",
    "FirstMap",
    "Growing",
    "MappingNetwork",
    "Pointwise",
    "Separable",
    "SynthesisNetwork",
    "inverse_haar",
]

STYLE_DIM = 512
WIDTHS = (512, 512, 512, 512, 512, 256, 128, 64)
"""Channels of the maps of 4, 8, ... 512 px."""
START = 4
"""Height and width in pixels of the first map."""
IMAGE_SIZE = 1024
"""Height and width in pixels of the image."""
SLOPE = 0.2
"""Of the leaky ReLU."""


class MappingNetwork(nn.Module):
    """The eight layers from latents to styles."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(STYLE_DIM, STYLE_DIM) for _ in range(8))

    def forward(self, z: Float[Tensor, "n 512"]) -> Float[Tensor, "n 512"]:
        """Return the styles of latents, whose length does not matter; in the precision of the weights."""
        x = z.to(self.layers[0].weight.dtype)  # type: ignore[arg-type]
        x = x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE) * 2**0.5
        return x.to(z.dtype)


class Growing(nn.Module, ABC):
    """A network from styles to images, whose maps double in size; it can be entered after each of them."""

    first: "FirstMap"
    blocks: nn.ModuleList
    shapes: list[tuple[int, int, int]]
    """Of the maps (c, h, w) after every stage."""

    def forward(self, style: Float[Tensor, "n 512"]) -> Float[Tensor, "n 3 size size"]:
        """Return images, mostly in [-1, 1]."""
        return self.finish(self.begin(style, 1), style, 1)

    def begin(self, style: Float[Tensor, "n 512"], stage: int) -> Float[Tensor, "n c side side"]:
        """Return the maps of `START` · 2^(stage - 1) px, `stage` from 1 to the number of shapes."""
        x: Tensor = self.first(style)
        for block in self.blocks[: stage - 1]:
            x = block(x, style)
        return x

    @abstractmethod
    def finish(
        self, x: Float[Tensor, "n c side side"], style: Float[Tensor, "n 512"], stage: int
    ) -> Float[Tensor, "n 3 size size"]:
        """Return the images of a stage's maps."""


class SynthesisNetwork(Growing):
    """The network from styles to images."""

    def __init__(self) -> None:
        super().__init__()
        self.first = FirstMap()
        self.blocks = nn.ModuleList(
            Block(below, above, 2 * START * 2**i) for i, (below, above) in enumerate(pairwise(WIDTHS))
        )
        self.bands = Pointwise(WIDTHS[-1], 12)
        self.shapes = [(width, START * 2**i, START * 2**i) for i, width in enumerate(WIDTHS)]

    def finish(
        self, x: Float[Tensor, "n c side side"], style: Float[Tensor, "n 512"], stage: int
    ) -> Float[Tensor, "n 3 1024 1024"]:
        """Return the images of a stage's maps."""
        for block in self.blocks[stage - 1 :]:
            x = block(x, style)
        bands: Tensor = self.bands(x, style)
        return inverse_haar(bands / 2)


class FirstMap(nn.Module):
    """The map of 4 px: a constant, its channels scaled by the style, through a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.empty(1, WIDTHS[0], START, START))
        self.style = nn.Linear(STYLE_DIM, WIDTHS[0])
        self.layer = nn.Conv2d(WIDTHS[0], WIDTHS[0], 3, padding=1)
        self.noise = nn.Parameter(torch.empty(1, 1, START, START))

    def forward(self, style: Float[Tensor, "n 512"]) -> Float[Tensor, "n 512 4 4"]:
        """Return the map."""
        x = self.constant * self.style(style)[:, :, None, None]
        x = self.layer(x.contiguous(memory_format=torch.channels_last))
        return F.leaky_relu_(x.add_(self.noise), SLOPE)


class Block(nn.Module):
    """An upsampling and two convolutions."""

    def __init__(self, below: int, above: int, size: int) -> None:
        super().__init__()
        self.up_style = nn.Linear(STYLE_DIM, below)
        self.layers = nn.ModuleList(Separable(width, above, size) for width in (below // 4, above))

    def forward(
        self, x: Float[Tensor, "n below height width"], style: Float[Tensor, "n 512"]
    ) -> Float[Tensor, "n above 2*height 2*width"]:
        """Return the map at twice the size."""
        x = inverse_haar(x * (self.up_style(style) / 2)[:, :, None, None])
        for layer in self.layers:
            x = layer(x, style)
        return x


class Separable(nn.Module):
    """A modulated, depthwise separable 3x3 convolution, its fixed noise and its leaky ReLU."""

    def __init__(self, below: int, above: int, size: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(below, below, 3, padding=1, groups=below, bias=False)
        self.pointwise = Pointwise(below, above)
        self.noise = nn.Parameter(torch.empty(1, 1, size, size))

    def forward(
        self, x: Float[Tensor, "n below height width"], style: Float[Tensor, "n 512"]
    ) -> Float[Tensor, "n above height width"]:
        """Return the next map. The style scales channels, which commutes with the depthwise part."""
        pixels = self.pointwise.pixels(self.depthwise(x), style)
        pixels = F.leaky_relu_(pixels.add_(self.noise.flatten()[:, None]), SLOPE)
        return _as_maps(pixels, x)


class Pointwise(nn.Module):
    """A 1x1 convolution whose input channels are scaled by an affine function of the style."""

    def __init__(self, below: int, above: int) -> None:
        super().__init__()
        self.style = nn.Linear(STYLE_DIM, below)
        self.weight = nn.Parameter(torch.empty(above, below))
        self.bias = nn.Parameter(torch.empty(above))

    def forward(
        self, x: Float[Tensor, "n below height width"], style: Float[Tensor, "n 512"]
    ) -> Float[Tensor, "n above height width"]:
        """Return the convolved map."""
        return _as_maps(self.pixels(x, style), x)

    def pixels(
        self, x: Float[Tensor, "n below height width"], style: Float[Tensor, "n 512"]
    ) -> Float[Tensor, "n pixels above"]:
        """Return the convolved map, pixel by pixel: weights are scaled, which saves a pass over maps.

        No view of a map: what is done to it in place needs no copy where gradients are asked for.
        """
        weights = self.weight.T * self.style(style)[:, :, None]
        return torch.baddbmm(self.bias, x.permute(0, 2, 3, 1).flatten(1, 2), weights)


def _as_maps(pixels: Float[Tensor, "n pixels c"], like: Tensor) -> Float[Tensor, "n c height width"]:
    maps: Tensor = pixels.unflatten(1, like.shape[2:])
    return maps.permute(0, 3, 1, 2)


def inverse_haar(x: Float[Tensor, "n bands height width"]) -> Float[Tensor, "n channels 2*height 2*width"]:
    """Return twice the inverse of the orthonormal 2-D Haar transform.

    Of 4 c bands the first c are low; then come, channel by channel, vertical, horizontal and diagonal
    details: the differences between rows, between columns, and of both.
    """
    bands = x.permute(0, 2, 3, 1)
    channels = x.shape[1] // 4
    low, details = bands.split([channels, 3 * channels], -1)
    vertical, horizontal, diagonal = details.unflatten(-1, (channels, 3)).unbind(-1)
    above, below = low + vertical, low - vertical
    same, other = horizontal + diagonal, horizontal - diagonal
    rows = [torch.stack(row, 3) for row in ([above + same, above - same], [below + other, below - other])]
    return torch.stack(rows, 2).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
