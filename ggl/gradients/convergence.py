"""What a victim's gradients still hold: their size beside that of a label that the victim has not fitted.

A gradient's norm depends on the network; its ratio to the norm under a wrong label, with the same image
and weights, does not. Of the cross-entropy, whose derivative by the logits is p - e_y, it is about 1 - p_y.
Of other losses it is what the label still weighs.
"""

import copy
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from numpy.typing import NDArray
from torch import Tensor

from ggl.base.errors import InputError, users_code
from ggl.gradients import GradientOracle

__all__ = ["THRESHOLD", "ConvergedVictimWarning", "GradientHealth", "gradient_health", "warn_if_converged"]

THRESHOLD = 1e-5
"""Ratio below which rounding shows: in single precision p_y is a multiple of 6e-8, so that 1 - p_y is known
to 6e-8 / ratio of itself. Measured (docs/victim-states.md): an image's gradients in single and in double
precision differ by a cosine distance of 1e-8 just above the threshold, 1e-5 just below it, 1e-3 below 1e-6,
and 0.1 to 0.5 below 1e-7, where another image of the class matches as well."""

BATCH = 64


class ConvergedVictimWarning(UserWarning):
    """A victim has fitted images so well that next to nothing is left of their gradients."""


@dataclass(frozen=True)
class GradientHealth:
    """Of n images, one a gradient.

    Attributes:
        norms: (n,), L2 norms of their gradients.
        ratios: (n,), these over the norms under a wrong label, at least 0: near 1 and above where nothing
            has been fitted, near 0 where the image has been; 0 where the latter norm is 0.
    """

    norms: NDArray[np.float64]
    ratios: NDArray[np.float64]


def gradient_health(
    oracle: GradientOracle, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]
) -> GradientHealth:
    """Return how large each image's own gradient is, and how it compares with that under a wrong label.

    The wrong label is the one that the victim, in eval mode, finds least likely. A zero gradient is no
    error here.

    Raises:
        InputError: labels that do not fit, or no images.
        GradientError: a gradient is not finite.
    """
    if len(images) == 0 or labels.shape != images.shape[:1]:
        raise InputError(f"expected one label for each of {len(images)} images, found {tuple(labels.shape)}")
    own = _norms(oracle, images, labels)
    wrong = _norms(oracle, images, _least_likely(oracle, images, labels))
    return GradientHealth(own, np.divide(own, wrong, out=np.zeros_like(own), where=wrong > 0))


def warn_if_converged(
    oracle: GradientOracle,
    images: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    *,
    threshold: float = THRESHOLD,
    stacklevel: int = 2,
) -> GradientHealth:
    """Issue one `ConvergedVictimWarning` where images' ratios are below the threshold; return what was found.

    Args:
        oracle: of the victim, in a mode in which it takes one image.
        images: each a client's batch of its own, in [0, 1].
        labels: their classes.
        threshold: on the ratio of `gradient_health`.
        stacklevel: as of `warnings.warn`, from here.

    Raises:
        InputError: as `gradient_health`.
        GradientError: as `gradient_health`.
    """
    health = gradient_health(oracle, images, labels)
    faint = health.norms[health.ratios < threshold]
    if len(faint):
        warnings.warn(
            f"the victim has fitted {len(faint)} of {len(images)} images: their gradients (norm: median "
            f"{np.median(faint):.1e}, smallest {faint.min():.1e}) are below {threshold:g} of those under a "
            "wrong label, where rounding shows and any noise hides them, so that a low leak says nothing of "
            "the defense; audit an earlier state of the victim, or other images",
            ConvergedVictimWarning,
            stacklevel=stacklevel + 1,
        )
    return health


def _norms(
    oracle: GradientOracle, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]
) -> Float64[NDArray[np.float64], " n"]:
    found = []
    for image, label in zip(images, labels, strict=True):
        gradient = oracle.gradient(image[None], label[None])
        found.append(torch.stack([g.double().norm() for g in gradient.values()]).norm().item())
    return np.array(found)


@torch.no_grad()
def _least_likely(
    oracle: GradientOracle, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]
) -> Int[Tensor, " n"]:
    """Return the class of least logit, other than the label; of one output, the other class."""
    model = copy.deepcopy(oracle.model).eval()
    batches = images.to(oracle.device, oracle.dtype).split(BATCH)
    with users_code("the victim in eval mode"):
        logits: Tensor = torch.cat([model(batch) for batch in batches])
    if logits.shape[1] < 2:
        return 1 - labels
    own = torch.arange(logits.shape[1], device=logits.device) == labels.to(logits.device)[:, None]
    return logits.masked_fill(own, torch.inf).argmin(1).cpu()
