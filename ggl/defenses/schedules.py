"""How the noise multiplier and the clipping bounds of private gradients move over training.

Schedules follow Wei and Liu, Gradient Leakage Attack Resilient Deep Learning (TIFS 2021, arXiv
2112.13178), with the constants of the authors' code (git-disl/Fed-alphaCDP). `progress` is t/T: how much
of training is done, from 0 to 1. Norms and bounds are (b, layers): one an example and parameter tensor.
"""

import math
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

__all__ = [
    "L2_MAX_CAP",
    "NOISE_SCHEDULES",
    "cyclic",
    "decaying_bound",
    "exponential",
    "l2_max_bounds",
    "linear",
    "median_bounds",
    "staircase",
    "staircase_code",
]

L2_MAX_FLOOR, L2_MAX_CAP = 0.1, 32.0
"""Within which the l2-max bound is kept; the authors' code has these numbers for gradients."""


def linear(progress: float) -> float:
    """Return the noise multiplier 15 - 10.15 t/T, from 15 to 4.85."""
    return 15 - 10.15 * progress


def staircase(progress: float) -> float:
    """Return the noise multiplier 15 - 1.015 ⌊r / 10⌋ at r = 100 t/T: ten steps from 15 to 5.87."""
    return 15 - 1.015 * math.floor(_percents(progress) / 10)


def staircase_code(progress: float) -> float:
    """Return the authors' code's staircase, 15 + ⌊-1.015 r / 10⌋ at r = ⌊100 t/T⌋: whole numbers to 4.

    It floors a negative number, and so stands at 15 for the first percent alone.
    """
    return 15.0 + math.floor(-1.015 * _percents(progress) / 10)


def _percents(progress: float) -> int:
    """Return ⌊100 t/T⌋, where rounding has not left t/T just below it."""
    return math.floor(100 * progress + 1e-9)


def exponential(progress: float) -> float:
    """Return the noise multiplier exp(1.13 (1 - t/T) + 1.58), from 15.03 to 4.85."""
    return math.exp(1.13 * (1 - progress) + 1.58)


def cyclic(progress: float) -> float:
    """Return the noise multiplier 15 cos(1.24 t/T), from 15 to 4.87."""
    return 15 * math.cos(1.24 * progress)


NOISE_SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": linear,
    "staircase": staircase,
    "staircase-code": staircase_code,
    "exponential": exponential,
    "cyclic": cyclic,
}


def decaying_bound(clip: float, floor: float, progress: float) -> float:
    """Return the bound clip - (clip - floor) t/T; the line is our choice, the paper names only a decay."""
    return clip - (clip - floor) * progress


def median_bounds(norms: Float[Tensor, "b layers"]) -> Float[Tensor, "b layers"]:
    """Return every layer's median norm over the batch; between the middle two where b is even."""
    ordered = norms.sort(0).values
    middle = (ordered[(len(norms) - 1) // 2] + ordered[len(norms) // 2]) / 2
    return middle.expand_as(norms)


def l2_max_bounds(norms: Float[Tensor, "b layers"]) -> Float[Tensor, "b layers"]:
    """Return every example's S_i: the largest norm of its layers, kept within [0.1, 32]."""
    return norms.amax(1, keepdim=True).clamp(L2_MAX_FLOOR, L2_MAX_CAP).expand_as(norms)
