"""How far from an image its gradient is linear in the pixels, as a first-order prediction takes it."""

import copy
import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ggl.base.random import stream
from ggl.gradients import GradientOracle

__all__ = ["STEPS", "gradient_growth", "linearity_power", "nonlinearity_note", "random_direction"]

STEPS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""A decade apart: root mean squares of pixels in [0, 1]."""

IMAGES = 3
"""Images that are looked at, at most."""

TOLERANCE = 0.1
"""How far from 2 the power of a linear gradient is, at most. Over the decades of 1e-4 to 1e-2 smooth victims
had 1.99 to 2.01 (benchmarks/results/i2f-linearity.md)."""


def gradient_growth(
    oracle: GradientOracle,
    image: Float[Tensor, "c h w"],
    label: Int[Tensor, ""],
    direction: Float[Tensor, "c h w"],
    steps: Sequence[float],
) -> list[float]:
    """Return ‖g(x + t u) - g(x)‖² / ‖g(x)‖² for every step t along a direction u."""

    def gradient(pixels: Tensor) -> Tensor:
        return torch.cat([part.flatten() for part in oracle.observe(pixels[None], label[None]).values()])

    start = gradient(image)
    scale = start.square().sum()
    return [float((gradient(image + t * direction) - start).square().sum() / scale) for t in steps]


def random_direction(image: Float[Tensor, "c h w"], *key: str | int) -> Float[Tensor, "c h w"]:
    """Return a direction of an image's shape and type, of root mean square 1, by the name of its stream."""
    direction = torch.randn(image.shape, generator=stream(0, "direction", *key)).to(image)
    return direction / direction.square().mean().sqrt()


def linearity_power(
    victim: nn.Module, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]
) -> float | None:
    """Return the power of a step with which the gradient's squared distance grows; None where it does not.

    It is 2 where the gradient is linear. A ReLU's derivative jumps where its input changes sign, and the
    gradient with it: many jumps on the way bring the power down to 1, a first one in a decade above 2.

    Args:
        victim: in the mode that the clients have; a copy in double precision is looked at.
        images: in [0, 1]. Of each of the first three, along a random direction, the decade of steps from
            1e-6 to 1e-2 counts whose power is farthest from 2; of these powers the middle one is returned.
        labels: their classes.
    """
    oracle = GradientOracle(copy.deepcopy(victim).double(), backend="sequential")
    found = []
    for k, (image, label) in enumerate(zip(images[:IMAGES].double(), labels, strict=False)):
        grown = gradient_growth(oracle, image, label, random_direction(image, k), STEPS)
        if min(grown) > 0:
            found.append(max((math.log10(b / a) for a, b in pairwise(grown)), key=_deviation))
    return sorted(found, key=_deviation)[len(found) // 2] if found else None


def nonlinearity_note(power: float | None) -> str | None:
    """Return what a reader of first-order predictions must know; None where gradients are linear."""
    if power is None or _deviation(power) <= TOLERANCE:
        return None
    first, *_, last = STEPS
    return (
        "the victim's gradient is not linear in the pixels, as where the derivatives of ReLUs jump. Its "
        f"squared distance grows with the power {power:.2f} of a step between {first:g} and {last:g}, "
        "where a linear one has 2. Predictions hold for smaller errors only, and an error can be below the "
        "lower bound"
    )


def _deviation(power: float) -> float:
    return abs(power - 2)
