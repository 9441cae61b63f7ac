"""What is differentiated: the mean over a candidate's images of their losses."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ggl.gradients.sampled import take_penalties
from ggl.victims.losses import Loss, losses_of

__all__ = ["candidate_losses"]


def candidate_losses(
    model: nn.Module,
    loss: Loss,
    images: Float[Tensor, "m c h w"],
    labels: Int[Tensor, "n b"] | Float[Tensor, "n b k"],
) -> Float[Tensor, " n"]:
    """Return each candidate's loss; its b images stand in a row in `images` (n · b, c, h, w).

    A loss that gives one number for a batch is asked for every candidate's.

    Raises:
        InputError: the loss returned neither losses of the images nor one number.
    """
    n, b = labels.shape[:2]
    logits = model(images)
    found = losses_of(loss, logits, labels.flatten(0, 1))
    if found.dim() == 0:
        each = zip(logits.split(b), labels, strict=True)
        found = torch.stack([losses_of(loss, z, y).mean() for z, y in each]).repeat_interleave(b)
    return take_penalties(model, found).view(n, b).mean(1)
