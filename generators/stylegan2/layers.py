"""The layers of StyleGAN2 (arXiv 1912.04958), for inference: weights are given, not trained.

Up-sampling follows the definition of upfirdn: put up - 1 zeros after every sample, pad, convolve with a
FIR filter (a true convolution: the filter is flipped against torch's `conv2d`), gain up².
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ggl.base.errors import WeightsError

__all__ = ["EqualizedLinear", "ModulatedConvolution", "blur", "leaky_relu", "normalize", "upsample"]

SLOPE, GAIN = 0.2, math.sqrt(2)
"""The activation sqrt(2) · lrelu, which keeps the variance of a centered input."""

EPSILON = 1e-8


def normalize(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Return each row divided by the root of its second moment."""
    return x * (x.square().mean(1, keepdim=True) + EPSILON).rsqrt()


def leaky_relu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return sqrt(2) · lrelu of slope 0.2."""
    return F.leaky_relu(x, SLOPE) * GAIN


def blur(
    x: Float[Tensor, "n c height1 width1"], fir: Float[Tensor, "4 4"]
) -> Float[Tensor, "n c height width"]:
    """Return upfirdn of `x` without zeros in between, padded by 1 px: one pixel smaller; gain 4."""
    weight = 4 * fir.flip(0, 1).to(x.dtype).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(x, weight, padding=1, groups=x.shape[1])


def upsample(
    x: Float[Tensor, "n c height width"], fir: Float[Tensor, "4 4"]
) -> Float[Tensor, "n c height2 width2"]:
    """Return upfirdn of `x` with up = 2, padded by 2 px before and 1 px after: twice the size; gain 4.

    A transposed convolution of stride 2 is the full convolution of `x` with zeros in between. Of its
    2h + 2 samples, m + 1 is the padded filter's sample m, so that one is cut off at either end.
    """
    weight = 4 * fir.to(x.dtype).expand(x.shape[1], 1, 4, 4)
    return F.conv_transpose2d(x, weight, stride=2, padding=1, groups=x.shape[1])


class EqualizedLinear(nn.Module):
    """A linear layer with equalized learning rate (arXiv 1710.10196, section 4.1), its gains folded in.

    `weight` (out, in) as trained, of unit variance over the multiplier; it acts by lr_multiplier / sqrt(in),
    and `bias` (out,) by lr_multiplier.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self, weight: Float[Tensor, "out in"], bias: Float[Tensor, " out"], lr_multiplier: float = 1.0
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight * (lr_multiplier / math.sqrt(weight.shape[1])))
        self.register_buffer("bias", bias * lr_multiplier)

    def forward(self, x: Float[Tensor, "n in"]) -> Float[Tensor, "n out"]:
        """Return the layer's output, without activation."""
        return F.linear(x, self.weight, self.bias)


class ModulatedConvolution(nn.Module):
    """A convolution whose weights are scaled per sample and input channel (equations 1 and 3).

    w'_oik = s_i w_oik, w''_oik = w'_oik / sqrt(Σ_ik w'_oik² + ε). Both factors leave the sum over pixels
    and taps: scaling the input by s and the output by the norm's inverse is the same convolution, with
    one weight for all samples, which is faster than one group per sample (measured: 3 to 25 % on a
    CPU). The output's factor is returned beside it, so that a caller joins it to its own gain.

    Up-convolution, by definition: zeros in between, padding, FIR filter, true convolution with the
    weight as stored (the first TensorFlow release stores it mirrored). The padding is 1 + 2 px before
    and 1 + 1 after: the convolution's own, and what centers the filter. Convolutions commute, so the
    weight may come first, before there are four times the pixels to filter: a transposed convolution of
    stride 2 is that true convolution, and brings 2 px before and 1 after of its own. What is left for
    the filter is 1 px on either side.

    Args:
        weight: (out, in, k, k) as in the file, without gain: normalization cancels one.
        fir: the up-sampling filter, None for a convolution that keeps the size.
        demodulate: whether the output's norm is taken out.
    """

    weight: Tensor
    energy: Tensor
    epsilon: Tensor
    fir: Tensor | None

    def __init__(
        self, weight: Float[Tensor, "out in k k"], *, fir: Float[Tensor, "4 4"] | None, demodulate: bool
    ) -> None:
        super().__init__()
        self.demodulate, self.padding = demodulate, weight.shape[2] // 2
        # float16 overflows on sums of plain weights; a factor per output cancels against its norm
        factor = _float16_factor(weight) if demodulate else torch.ones(weight.shape[0])
        weight = weight * factor[:, None, None, None]
        self.register_buffer("energy", weight.square().sum((2, 3)))
        self.register_buffer("epsilon", EPSILON * factor.square())
        self.register_buffer("fir", fir)
        weight = weight if fir is None else weight.transpose(0, 1)
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))

    def forward(
        self, x: Float[Tensor, "n in height width"], style: Float[Tensor, "n in"]
    ) -> tuple[Float[Tensor, "n out height_out width_out"], Float[Tensor, "n out"]]:
        """Return the convolution of x · style, and the factor by which its channels are to be scaled."""
        if x.dtype == torch.float16 and self.demodulate:
            style = style / style.abs().amax(1, keepdim=True)
        x = x * style.to(x.dtype)[:, :, None, None]
        return self._convolve(x), self._factor(style)

    def _convolve(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype)
        if self.fir is None:
            return F.conv2d(x, weight, padding=self.padding)
        return blur(F.conv_transpose2d(x, weight, stride=2), self.fir)

    def _factor(self, style: Tensor) -> Tensor:
        if not self.demodulate:
            return style.new_ones(style.shape[0], self.energy.shape[0])
        return (F.linear(style.square(), self.energy) + self.epsilon).rsqrt()


def _float16_factor(weight: Tensor) -> Tensor:
    """Return what makes each output's largest weight 1 / sqrt(fan-in) (arXiv 2006.06676, appendix D)."""
    largest = weight.abs().amax((1, 2, 3))
    if not (largest > 0).all():
        raise WeightsError("expected weights, found a filter of zeros; fetch it again")
    return 1 / (largest * math.sqrt(weight[0].numel()))
