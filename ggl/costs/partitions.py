"""How a data set is split among the clients of federated training: evenly, or by skewed classes."""

import numpy as np
import torch
from jaxtyping import Int, Int64
from numpy.typing import NDArray
from torch import Tensor

from ggl.base.errors import InputError
from ggl.base.random import numpy_stream
from ggl.base.registry import unknown_name

__all__ = ["read_concentration", "split_clients"]

ALPHAS = (1e-6, 1e6)
"""Concentrations that a Dirichlet distribution can be drawn with in float64, with room to spare."""


def split_clients(
    labels: Int[Tensor, " n"], clients: int, partition: str = "iid", seed: int = 0
) -> list[Int64[Tensor, " m"]]:
    """Return the indices of every client's examples: each example is one client's, and none has none.

    The clients' sizes differ by one at most.

    Args:
        labels: the examples' classes.
        clients: how many there are.
        partition: "iid", or "dirichlet:ALPHA": each client's class proportions are drawn from
            Dir(ALPHA · p), p being the classes' shares of the data (Hsu et al., arXiv 1909.06335, section
            3; codes that draw from Dir(a, ..., a) mean ALPHA = a · classes). What a client would draw
            from a class that is used up, it draws from the others.
        seed: of the draw.

    Raises:
        UnknownNameError: an unknown partition.
        InputError: more clients than examples, or an ALPHA that is out of range.
    """
    if not 1 <= clients <= len(labels):
        raise InputError(f"expected 1 to {len(labels)} clients, one example each at least; found {clients}")
    alpha = read_concentration(partition)
    random = numpy_stream(seed, "split")
    order = random.permutation(len(labels))
    if alpha is None:
        return [torch.from_numpy(part) for part in np.array_split(order, clients)]
    return _split_by_class(labels.cpu().numpy()[order], order, clients, alpha, random)


def read_concentration(partition: str) -> float | None:
    """Return the ALPHA of "dirichlet:ALPHA", None for "iid"."""
    if partition == "iid":
        return None
    name, _, text = partition.partition(":")
    if name != "dirichlet":
        raise unknown_name("partition", partition, ["iid", "dirichlet:ALPHA"])
    try:
        alpha = float(text)
    except ValueError as error:
        raise InputError(f"partition {partition!r}: expected a number after the colon") from error
    low, high = ALPHAS
    if not low <= alpha <= high:
        raise InputError(f"partition {partition!r}: expected a concentration of {low:g} to {high:g}")
    return alpha


def _split_by_class(
    labels: NDArray[np.int64],
    order: NDArray[np.int64],
    clients: int,
    alpha: float,
    random: np.random.Generator,
) -> list[Int64[Tensor, " m"]]:
    """Deal out shuffled examples, order[i] of class labels[i], by every client's own class proportions."""
    classes, totals = np.unique(labels, return_counts=True)
    piles = [order[labels == k] for k in classes]
    left = totals.copy()
    parts = []
    for size in (len(part) for part in np.array_split(order, clients)):
        wanted = random.dirichlet(alpha * totals / totals.sum())
        counts = _draw_counts(wanted, left, size, random)
        taken = [pile[len(pile) - n :][:c] for pile, n, c in zip(piles, left, counts, strict=True)]
        left -= counts
        parts.append(torch.from_numpy(np.concatenate(taken)))
    return parts


def _draw_counts(
    wanted: NDArray[np.float64], left: NDArray[np.int64], size: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """Draw `size` examples by the proportions `wanted`; what exceeds a class is drawn from the others."""
    counts = np.zeros_like(left)
    while counts.sum() < size:
        free = left - counts
        weights = np.where(free > 0, wanted, 0)
        if weights.sum() <= 0:
            weights = free.astype(np.float64)
        drawn = random.multinomial(size - counts.sum(), weights / weights.sum())
        counts += np.minimum(drawn, free)
    return counts
