"""Which images of a data set are the private ones."""

import torch
from jaxtyping import Int
from torch import Tensor

from ggl.base.errors import InputError
from ggl.base.random import stream

__all__ = ["pick_private"]


def pick_private(labels: Int[Tensor, " m"], n: int, seed: int) -> Int[Tensor, " n"]:
    """Return the rows of n private images, drawn in turn from every class, in the order of turns and labels.

    Where the last turn does not reach every class, the seed draws the classes that it does.

    Raises:
        InputError: fewer than n images.
    """
    if n > len(labels):
        raise InputError(f"expected at most {len(labels)} private images, as the data set has; found {n}")
    classes, place = labels.unique(return_inverse=True)
    shuffled = torch.randperm(len(labels), generator=stream(seed, "private"))
    turn = torch.zeros_like(place)
    for k in range(len(classes)):
        of_class = (place[shuffled] == k).nonzero()[:, 0]
        turn[shuffled[of_class]] = torch.arange(len(of_class))
    drawn = torch.randperm(len(classes), generator=stream(seed, "private classes"))
    rows = (turn * len(classes) + drawn[place]).argsort()[:n]
    return rows[(turn[rows] * len(classes) + place[rows]).argsort()]
