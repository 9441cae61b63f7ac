"""The networks of a flow-matching prior, and the few steps that carry noise to images."""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SIZE", "CodeFlow", "Decoder", "Encoder", "PixelFlow", "carry"]

SIZE = 32
"""Height and width of images in pixels."""
MAPS = (16, 64, 96)
"""Channels of a pixel flow's maps of 16 px, 8 px and 4 px."""
CODE_MAPS = (32, 64, 128)
"""Channels of the encoder's and the decoder's maps of 16 px, 8 px and 4 px."""
START = SIZE >> len(CODE_MAPS)
FREQUENCIES = 4
"""Of the waves that tell a network the time: 1/2, 1, 2 and 4 periods between noise and data."""


def carry(
    predict: Callable[[Tensor, Tensor], Tensor], noise: Float[Tensor, "n d"], steps: int
) -> Float[Tensor, "n d"]:
    """Return where a rectified flow carries noise, by equal Euler steps (arXiv 2209.03003, section 2.1).

    `predict` says of points (n, d) at times (n,) where each is expected to end, x̂ (n, d). The velocity at
    time t is (x̂ - x) / (1 - t), so that a step from t goes 1 / (steps·(1 - t)) of the way to x̂ and the
    last one ends there: in whatever range predictions are.

    >>> carry(lambda x, time: torch.full_like(x, 5.0), torch.zeros(1, 2), steps=4)
    tensor([[5., 5.]])
    """
    x = noise
    for step in range(steps):
        time = torch.full((len(x),), step / steps, dtype=x.dtype, device=x.device)
        x = torch.lerp(x, predict(x, time), 1 / (steps - step))
    return x


class Condition(nn.Module):
    """What a network knows beside the point: the time and the class."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.times = nn.Linear(2 * FREQUENCIES, width)
        self.classes = nn.Embedding(num_classes, width)

    def forward(self, time: Float[Tensor, " n"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n width"]:
        """Return a vector per point."""
        rates = torch.tensor([math.pi * 2**k for k in range(FREQUENCIES)])
        angles = time[:, None] * rates.to(time.device, time.dtype, non_blocking=True)
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        return F.silu(self.times(waves) + self.classes(labels))


class MapBlock(nn.Module):
    """A residual block of two convolutions; the condition scales and shifts the maps between them."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
        self.norm = nn.GroupNorm(8, width, affine=False)
        self.affine = nn.Linear(condition, 2 * width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return maps of the same shape."""
        scale, shift = self.affine(condition)[:, :, None, None].chunk(2, dim=1)
        between = self.norm(self.first(x)) * (1 + scale) + shift
        maps: Tensor = x + self.second(F.silu(between))
        return maps


class PixelFlow(nn.Module):
    """A small U-Net that predicts the image, in [-1, 1], that noise of the image's own shape goes to."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.channels = channels
        condition = MAPS[-1]
        self.condition = Condition(num_classes, condition)
        self.enter = nn.Conv2d(4 * channels, MAPS[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(4 * above, below, 1) for above, below in pairwise(MAPS))
        self.up = nn.ModuleList(nn.Conv2d(below, 4 * above, 1) for above, below in pairwise(MAPS))
        self.before = nn.ModuleList(MapBlock(width, condition) for width in MAPS)
        self.after = nn.ModuleList(MapBlock(width, condition) for width in MAPS[:-1])
        self.leave = nn.Conv2d(MAPS[0], 4 * channels, 3, padding=1)

    def forward(
        self, x: Float[Tensor, "n d"], time: Float[Tensor, " n"], labels: Int[Tensor, " n"]
    ) -> Float[Tensor, "n d"]:
        """Return the predicted images, flat as the points are."""
        condition = self.condition(time, labels)
        maps = self.enter(F.pixel_unshuffle(x.unflatten(1, (self.channels, SIZE, SIZE)), 2))
        kept = []
        for block, down in zip(self.before, self.down, strict=False):
            maps = block(maps, condition)
            kept.append(maps)
            maps = down(F.pixel_unshuffle(maps, 2))
        maps = self.before[-1](maps, condition)
        for block, up in zip(reversed(self.after), reversed(self.up), strict=True):
            maps = block(kept.pop() + F.pixel_shuffle(up(maps), 2), condition)
        return torch.tanh(F.pixel_shuffle(self.leave(F.silu(maps)), 2)).flatten(1)


class CodeBlock(nn.Module):
    """A residual block of two linear layers; the condition shifts the hidden units."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, 2 * width)
        self.shift = nn.Linear(condition, 2 * width, bias=False)
        self.second = nn.Linear(2 * width, width)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return vectors of the same shape."""
        vectors: Tensor = x + self.second(F.silu(self.first(self.norm(x)) + self.shift(condition)))
        return vectors


class CodeFlow(nn.Module):
    """A residual network that predicts the code that noise of the code's own length goes to."""

    def __init__(self, code: int, num_classes: int, width: int, depth: int) -> None:
        super().__init__()
        self.condition = Condition(num_classes, width // 2)
        self.enter = nn.Linear(code, width)
        self.blocks = nn.ModuleList(CodeBlock(width, width // 2) for _ in range(depth))
        self.leave = nn.Linear(width, code)

    def forward(
        self, x: Float[Tensor, "n d"], time: Float[Tensor, " n"], labels: Int[Tensor, " n"]
    ) -> Float[Tensor, "n d"]:
        """Return the predicted codes."""
        condition = self.condition(time, labels)
        vectors = self.enter(x)
        for block in self.blocks:
            vectors = block(vectors, condition)
        codes: Tensor = self.leave(vectors)
        return codes


class Encoder(nn.Sequential):
    """Images in [-1, 1] to codes, by three strided convolutions."""

    def __init__(self, channels: int, code: int) -> None:
        layers: list[nn.Module] = []
        for above, below in pairwise((channels, *CODE_MAPS)):
            layers += [nn.Conv2d(above, below, 4, stride=2, padding=1), nn.SiLU()]
        super().__init__(*layers, nn.Flatten(), nn.Linear(CODE_MAPS[-1] * START**2, code))


class Decoder(nn.Sequential):
    """Codes to images in [-1, 1], by three transposed convolutions."""

    def __init__(self, channels: int, code: int) -> None:
        layers: list[nn.Module] = []
        for below, above in pairwise((*CODE_MAPS[::-1], channels)):
            layers += [nn.SiLU(), nn.ConvTranspose2d(below, above, 4, stride=2, padding=1)]
        maps = nn.Unflatten(1, (CODE_MAPS[-1], START, START))
        super().__init__(nn.Linear(code, CODE_MAPS[-1] * START**2), maps, *layers, nn.Tanh())
