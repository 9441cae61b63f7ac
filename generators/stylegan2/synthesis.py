"""The synthesis network: styles to an image, by output skips (arXiv 1912.04958, figure 7b)."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ggl.base.errors import WeightsError
from ggl.generators.stylegan2.layers import GAIN, SLOPE, EqualizedLinear, ModulatedConvolution, upsample
from ggl.generators.stylegan2.tensors import Settings, take

__all__ = ["SynthesisNetwork", "resolution_of"]

START = 4
"""Height and width in pixels of the learned constant; each block but the first doubles it."""


def resolution_of(tensors: Mapping[str, Tensor]) -> int:
    """Return the height and width of the full image in pixels, a power of two."""
    size = START
    while f"synthesis.b{2 * size}.conv1.weight" in tensors:
        size *= 2
    return size


class StyledConvolution(nn.Module):
    """Modulated convolution, noise, bias, activation, and a limit on the magnitude.

    The noise is the file's constant picture. lrelu(c · x) = c · lrelu(x) for c > 0, so that the
    activation's gain joins the convolution's factor, the noise and the bias.
    """

    noise: Tensor | None
    bias: Tensor

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        name: str,
        size: int,
        inputs: int,
        w_dim: int,
        fir: Tensor | None,
        clamp: float | None,
    ) -> None:
        super().__init__()
        weight = take(tensors, f"{name}.weight", (None, inputs, 3, 3))
        self.channels = weight.shape[0]
        self.affine = _affine(tensors, name, weight.shape[1], w_dim)
        self.convolution = ModulatedConvolution(weight, fir=fir, demodulate=True)
        self.clamp = clamp
        self.register_buffer("noise", _noise(tensors, name, size))
        bias = take(tensors, f"{name}.bias", (weight.shape[0],))
        self.register_buffer("bias", GAIN * bias[:, None, None])

    def forward(
        self, x: Float[Tensor, "n in height width"], w: Float[Tensor, "n w"]
    ) -> Float[Tensor, "n out height_out width_out"]:
        """Return the feature map under style vectors `w`."""
        x, factor = self.convolution(x, self.affine(w))
        scale = (GAIN * factor).to(x.dtype)[:, :, None, None]
        bias = self.bias.to(x.dtype)
        if self.noise is None:
            x = torch.addcmul(bias, x, scale)
        else:
            x = torch.addcmul(self.noise.to(x.dtype), x, scale).add_(bias)
        x = F.leaky_relu_(x, SLOPE)
        return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)


class ToRGB(nn.Module):
    """A modulated 1 × 1 convolution to the image's channels, of gain 1 / sqrt(in), not demodulated."""

    bias: Tensor

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        name: str,
        inputs: int,
        channels: int,
        w_dim: int,
        clamp: float | None,
    ) -> None:
        super().__init__()
        weight = take(tensors, f"{name}.weight", (channels, inputs, 1, 1))
        self.affine = _affine(tensors, name, weight.shape[1], w_dim)
        self.gain = 1 / math.sqrt(weight.shape[1])
        self.convolution = ModulatedConvolution(weight, fir=None, demodulate=False)
        self.clamp = clamp
        self.register_buffer("bias", take(tensors, f"{name}.bias", (channels,))[:, None, None])

    def forward(
        self, x: Float[Tensor, "n in height width"], w: Float[Tensor, "n w"]
    ) -> Float[Tensor, "n channels height width"]:
        """Return this resolution's part of the image, in the precision of `w`."""
        product, _ = self.convolution(x, self.gain * self.affine(w))
        part: Tensor = product.to(w.dtype) + self.bias
        return part if self.clamp is None else part.clamp(-self.clamp, self.clamp)


class Block(nn.Module):
    """One resolution: up-convolution (but for the first), convolution, and a part of the image."""

    fir: Tensor

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        size: int,
        inputs: int,
        channels: int,
        w_dim: int,
        clamp: float | None,
    ) -> None:
        super().__init__()
        name = f"synthesis.b{size}"
        fir = _filter(tensors, name, _standard_filter())
        self.up = None
        if size > START:
            up = _filter(tensors, f"{name}.conv0", fir)
            self.up = StyledConvolution(tensors, f"{name}.conv0", size, inputs, w_dim, up, clamp)
            inputs = self.up.channels
        self.convolution = StyledConvolution(tensors, f"{name}.conv1", size, inputs, w_dim, None, clamp)
        self.channels = self.convolution.channels
        self.to_rgb = ToRGB(tensors, f"{name}.torgb", self.channels, channels, w_dim, clamp)
        self.register_buffer("fir", fir)

    def forward(
        self, x: Tensor, image: Tensor | None, ws: list[Float[Tensor, "n w"]]
    ) -> tuple[Float[Tensor, "n c height width"], Float[Tensor, "n channels height width"]]:
        """Return the feature map and the image so far; `ws` are the block's styles, in order."""
        if self.up is not None:
            x = self.up(x, ws[0])
        x = self.convolution(x, ws[-2])
        part = self.to_rgb(x, ws[-1])
        return x, part if image is None else part + upsample(image, self.fir)


class SynthesisNetwork(nn.Module):
    """Feature maps from a learned 4 px constant upwards; each block adds its part to the image.

    The image of a smaller `size` than the file's is the sum up to that block. Style inputs: two a
    block (one for the first), and the last block's part of the image; a block's part shares its
    input with the next block's up-convolution, so that there are 2 log2(size) - 2.

    Args:
        tensors: under the names of the official generator, `synthesis.b4.const` and so on.
        w_dim: length of a style vector.
        settings: what the tensors do not say.
        size: height and width of the image in pixels, None for all that the file has.
        half: whether blocks that were trained in float16 run so on CUDA, where styles are float32.
    """

    const: Tensor

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        w_dim: int,
        settings: Settings,
        size: int | None = None,
        half: bool = False,
    ) -> None:
        super().__init__()
        _check_architecture(tensors)
        full = resolution_of(tensors)
        self.sizes = [2**i for i in range(2, (size or full).bit_length())]
        self.num_ws = 2 * len(self.sizes)
        self.half_from = full // 2 ** (settings.num_fp16_res - 1) if half and settings.num_fp16_res else None
        const = take(tensors, "synthesis.b4.const", (None, START, START))
        self.register_buffer("const", const)
        self.channels = int(take(tensors, "synthesis.b4.torgb.bias", (None,)).shape[0])
        blocks: list[Block] = []
        for s in self.sizes:
            inputs = blocks[-1].channels if blocks else const.shape[0]
            blocks.append(Block(tensors, s, inputs, self.channels, w_dim, settings.conv_clamp))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, ws: Float[Tensor, "n inputs w"]) -> Float[Tensor, "n channels size size"]:
        """Return images, about in [-1, 1], of style vectors (n, num_ws, w_dim)."""
        return self.finish(*self.begin(ws, 1), ws, 1)

    def begin(
        self, ws: Float[Tensor, "n inputs w"], stage: int
    ) -> tuple[Float[Tensor, "n c side side"], Float[Tensor, "n channels side side"]]:
        """Return the feature map and the image so far after a number of blocks."""
        # channels last: 1.1 to 1.9 times as fast on a CPU
        x = self.const.expand(len(ws), *self.const.shape).contiguous(memory_format=torch.channels_last)
        x, image = self.blocks[0](x, None, list(ws[:, :2].unbind(1)))
        return self._through(x, image, ws, range(1, stage))

    def finish(
        self, x: Tensor, image: Tensor, ws: Float[Tensor, "n inputs w"], stage: int
    ) -> Float[Tensor, "n channels size size"]:
        """Return the images, about in [-1, 1], that the blocks after a stage make of what it left."""
        return self._through(x, image, ws, range(stage, len(self.blocks)))[1]

    def _through(self, x: Tensor, image: Tensor, ws: Tensor, blocks: range) -> tuple[Tensor, Tensor]:
        styles = list(ws.unbind(1))
        for i in blocks:
            x = x.to(self._precision(self.sizes[i], ws))
            x, image = self.blocks[i](x, image, styles[2 * i - 1 : 2 * i + 2])
        return x, image

    def shapes(self) -> list[tuple[tuple[int, int, int], tuple[int, int, int]]]:
        """Return the shapes of the feature map and of the image so far after every block but the last."""
        blocks: Any = self.blocks[:-1]
        sides = zip(blocks, self.sizes, strict=False)
        return [((block.channels, side, side), (self.channels, side, side)) for block, side in sides]

    def _precision(self, size: int, ws: Tensor) -> torch.dtype:
        half = self.half_from is not None and size >= max(self.half_from, 8)
        return torch.float16 if half and ws.is_cuda and ws.dtype == torch.float32 else ws.dtype


def _check_architecture(tensors: Mapping[str, Tensor]) -> None:
    if any(name.startswith("synthesis.") and name.endswith(".skip.weight") for name in tensors):
        raise WeightsError(
            "expected architecture 'skip', found 'resnet', which is not supported; "
            "use a generator of the standard configurations"
        )


def _affine(tensors: Mapping[str, Tensor], name: str, channels: int, w_dim: int) -> EqualizedLinear:
    weight = take(tensors, f"{name}.affine.weight", (channels, w_dim))
    return EqualizedLinear(weight, take(tensors, f"{name}.affine.bias", (channels,)))


def _noise(tensors: Mapping[str, Tensor], name: str, size: int) -> Tensor | None:
    """Return the layer's constant picture of noise times its strength, None where it has none."""
    if f"{name}.noise_const" not in tensors:
        return None
    noise = take(tensors, f"{name}.noise_const", (size, size))
    return GAIN * noise * take(tensors, f"{name}.noise_strength", ())


def _filter(tensors: Mapping[str, Tensor], name: str, default: Tensor) -> Tensor:
    """Return the up-sampling filter (4, 4) of a block or layer, of sum 1."""
    if f"{name}.resample_filter" in tensors:
        return take(tensors, f"{name}.resample_filter", (4, 4))
    return default


def _standard_filter() -> Tensor:
    """Return the filter of the taps [1, 3, 3, 1]."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) / taps.sum().square()
