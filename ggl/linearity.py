"""How far from an image its gradient is linear in the pixels, as a first-order prediction takes it."""

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ggl.base.random import stream
from ggl.gradients import GradientOracle

__all__ = ["gradient_growth", "linearity_power", "nonlinearity_note", "random_direction"]

NEAR, FAR = 1e-6, 1e-2
"""Steps between which the power is taken: root mean squares of pixels in [0, 1]."""

IMAGES = 3
"""Images, at most, whose median is the power."""

TOLERANCE = 0.1
"""How far from 2 the power of a linear gradient is, at most. Of smooth victims it was 0.01 (docs/i2f.md)."""


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
    gradient with it. Jumps over both steps bring the power down towards 1, jumps between the steps above 2.

    Args:
        victim: in the mode that the clients have; a copy in double precision is looked at.
        images: in [0, 1]; the median over the first three is returned, along a random direction each.
        labels: their classes.
    """
    oracle = GradientOracle(copy.deepcopy(victim).double(), backend="sequential")
    powers = []
    for k, (image, label) in enumerate(zip(images[:IMAGES].double(), labels, strict=False)):
        near, far = gradient_growth(oracle, image, label, random_direction(image, k), (NEAR, FAR))
        if min(near, far) > 0:
            powers.append(math.log(far / near) / math.log(FAR / NEAR))
    return float(np.median(powers)) if powers else None


def nonlinearity_note(power: float | None) -> str | None:
    """Return what a reader of first-order predictions must know; None where gradients are linear."""
    if power is None or abs(power - 2) <= TOLERANCE:
        return None
    return (
        f"the victim's gradient is not linear in the pixels. For steps of {NEAR:g} to {FAR:g} its squared "
        f"distance grows with the power {power:.2f} of the step, where a linear one has 2: a ReLU's "
        "derivative jumps. Predictions hold for far smaller errors only, and the lower bound is none"
    )
