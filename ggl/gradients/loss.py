"""The client's loss: the mean over a candidate's images."""

from collections.abc import Callable
from typing import TypeAlias

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ggl.gradients.sampled import take_penalties

__all__ = ["Loss", "candidate_losses", "cross_entropy"]

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From logits (n, k) and labels, classes (n,) or probabilities (n, k), to losses (n,)."""


def cross_entropy(
    logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"] | Float[Tensor, "n k"]
) -> Float[Tensor, " n"]:
    """Return the cross-entropy of each image, against its class or against probabilities."""
    return F.cross_entropy(logits, labels, reduction="none")


def candidate_losses(
    model: nn.Module,
    loss: Loss,
    images: Float[Tensor, "m c h w"],
    labels: Int[Tensor, "n b"] | Float[Tensor, "n b k"],
) -> Float[Tensor, " n"]:
    """Return each candidate's mean loss; its b images stand in a row in `images` (n · b, c, h, w)."""
    losses = take_penalties(model, loss(model(images), labels.flatten(0, 1)))
    return losses.view(labels.shape[:2]).mean(1)
