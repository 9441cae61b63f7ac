"""Which images of a data set are the private ones."""

import torch
from jaxtyping import Int
from torch import Tensor

from ggl.base.errors import InputError
from ggl.base.random import stream

__all__ = ["pick_private"]


def pick_private(labels: Int[Tensor, " m"], n: int, seed: int) -> Int[Tensor, " n"]:
    """Return the rows of n private images, drawn in turn from every class.

    Raises:
        InputError: fewer than n images.
    """
    if n > len(labels):
        raise InputError(f"expected at most {len(labels)} private images, as the data set has; found {n}")
    shuffled = torch.randperm(len(labels), generator=stream(seed, "private"))
    turn = torch.zeros_like(labels)
    for label in labels.unique():
        of_class = (labels[shuffled] == label).nonzero()[:, 0]
        turn[shuffled[of_class]] = torch.arange(len(of_class))
    return (turn * (int(labels.max()) + 1) + labels).argsort()[:n]
