"""Quantization: signSGD and QSGD. What an attacker makes of it is a stand-in derivative, or the grid."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ggl.base.errors import InputError
from ggl.defenses.base import Defense
from ggl.gradients import Gradients, Step, View

__all__ = ["QSGD", "LevelUnits", "Sign", "SignSGD", "grid_spacing"]

MAX_BITS = 16
FIRST_LEVELS, PROBES = 256, 1000
RESOLVED = 0.1
"""Of a level: the most that a value's own rounding may blur it for a grid to be told."""
NORM_BYTES = 4


class SignSGD(Defense):
    """Shares the sign of every coordinate, zero where it is zero (signSGD, arXiv 1802.04434)."""

    name = "sign"
    quantizes = True

    def protect(self, gradients: Gradients, generator: torch.Generator) -> Gradients:
        return {name: g.sign() for name, g in gradients.items()}

    def adapt(self, observed: Gradients, attacker: str, model: nn.Module | None) -> View:
        """Return a view that compares signs with signs; there is no parameter to estimate."""
        return View(observed, (Sign(),))

    def size(self, shared: Gradients) -> int:
        """Return the bytes of 1 bit a coordinate, or of 2 where any coordinate is zero."""
        bits = 1 if all(bool(g.all()) for g in shared.values()) else 2
        return math.ceil(bits * sum(g.numel() for g in shared.values()) / 8)


@dataclass(frozen=True)
class Sign(Step):
    """Take the sign, with the derivative of g / mean|g| of each parameter, the mean held constant.

    A parameter that is all zero gets the derivative zero.
    """

    def apply(self, gradients: Gradients) -> Gradients:
        """Return the signs."""
        return {name: _straight_through_sign(g) for name, g in gradients.items()}


def _straight_through_sign(g: Tensor) -> Tensor:
    inverse = g.detach().abs().mean().reciprocal()
    scaled = g * torch.where(inverse.isfinite(), inverse, 0.0)
    # The difference is zero, to the bit: it lends its derivative alone.
    return g.detach().sign() + (scaled - scaled.detach())


class QSGD(Defense):
    """Rounds at random, without bias, to 2^bits levels of each parameter's norm (arXiv 1610.02132).

    Q(g) = ‖g‖ · sign(g) · ξ with ξ in {0, 1/s, ..., 1}, s = 2^bits, and E ξ = |g| / ‖g‖ (section 3.1).
    The computation is in float64; a result that the gradient's dtype can't hold becomes its largest number.

    Args:
        bits: from 1 to 16; s = 2^bits levels above zero.
        norm: "l2", the paper's, or "max", the largest magnitude, as a common code has it.
    """

    quantizes = True

    def __init__(self, bits: int, *, norm: Literal["l2", "max"] = "l2") -> None:
        if not 1 <= bits <= MAX_BITS:
            raise InputError(f"qsgd: expected from 1 to {MAX_BITS} bits, found {bits}")
        self.bits, self.norm, self.levels = bits, norm, 1 << bits
        self.name = f"qsgd:{bits},norm={norm}"

    def protect(self, gradients: Gradients, generator: torch.Generator) -> Gradients:
        return {name: self._rounded(g, generator) for name, g in gradients.items()}

    def _rounded(self, g: Tensor, generator: torch.Generator) -> Tensor:
        magnitude = g.double().abs()
        peak = magnitude.amax()
        unit = magnitude / torch.where(peak > 0, peak, 1.0)
        # In units of the peak neither norm overflows, and both are at least 1 but for a zero tensor.
        norm = (unit.norm() if self.norm == "l2" else unit.amax()).clamp_min(1.0)
        level = unit / norm * self.levels
        draw = torch.rand(g.shape, generator=generator, dtype=torch.float64).to(level.device)
        level = level.floor() + (draw < level.frac())
        largest = torch.finfo(g.dtype).max
        return (g.double().sign() * level * (peak * norm / self.levels)).clamp(-largest, largest).to(g.dtype)

    def adapt(self, observed: Gradients, attacker: str, model: nn.Module | None) -> View:
        """Return a view that weighs each parameter by the rounding error that it carries.

        A coordinate's error has a standard deviation of up to half its parameter's grid spacing, which
        differs much between parameters, and a zero mean; so both gradients are compared in units of the
        spacing. Rounding the trial gradient to the nearest level would be the obvious thing, but under the
        L2 norm falls far behind the naive attack: most coordinates lie below half a level, and vanish.

        The spacing is read off the observed values by `grid_spacing`. An informed attacker knows it
        under the max norm (the largest magnitude is on the last level), and under the L2 norm falls back
        on ‖Q(g)‖ / s. Where another attacker finds no grid in some parameter (noise came after, or so
        many bits that the rounding matters little) the view is the naive one.
        """
        found = {name: self._spacing(g, attacker) for name, g in observed.items() if g.any()}
        spacing = {name: value for name, value in found.items() if value is not None}
        if not spacing or len(spacing) < len(found):
            return View(observed)
        return View(observed, both=(LevelUnits(spacing),))

    def _spacing(self, g: Tensor, attacker: str) -> float | None:
        if attacker == "informed" and self.norm == "max":
            return float(g.abs().max()) / self.levels
        read = grid_spacing(g)
        if read is None and attacker == "informed":
            return float(g.double().norm()) / self.levels
        return read

    def size(self, shared: Gradients) -> int:
        """Return the bytes of each parameter's norm (4), and a sign and a level a coordinate.

        A level takes ⌈log2(s + 1)⌉ bits; the paper's Elias codes, not counted, are shorter for few bits.
        """
        bits = 1 + math.ceil(math.log2(self.levels + 1))
        return sum(NORM_BYTES + math.ceil(g.numel() * bits / 8) for g in shared.values())


@dataclass(frozen=True)
class LevelUnits(Step):
    """Divide each parameter by its `spacing` over the coarsest one; one without is left as it is."""

    spacing: Mapping[str, float]

    def apply(self, gradients: Gradients) -> Gradients:
        """Return the gradient in level units, times one number."""
        coarsest = max(self.spacing.values())
        return {name: g * (coarsest / self.spacing.get(name, coarsest)) for name, g in gradients.items()}


def grid_spacing(values: Tensor) -> float | None:
    """Return the spacing of the widest grid that holds zero and all the values, or None where none does.

    The least magnitude is tried as the first level, the second, and so on to the 256th, to the precision
    of the values' dtype; a thousand magnitudes are looked at. For QSGD that is the norm over s, unless all
    levels happen to share a factor, which they hardly do but in parameters of a few numbers.
    """
    magnitudes = values.detach().abs().unique()
    magnitudes = magnitudes[magnitudes > 0].double()
    probes = magnitudes[:: max(1, len(magnitudes) // PROBES)]
    for first in range(1, FIRST_LEVELS + 1) if len(probes) else ():
        levels = probes / probes[0] * first
        # Both the value and the least one are rounded to their dtype: half an ε each, with a margin of 4.
        error = 4 * torch.finfo(values.dtype).eps * levels
        if error[-1] < RESOLVED and ((levels - levels.round()).abs() <= error).all():
            return float(probes[0]) / first
    return None
