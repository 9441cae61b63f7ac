"""The best point that parts of known ones make up: images of a batch, whose values add up."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ggl.optimizers.least_squares.record import rows_of

__all__ = ["beside_others", "merits", "recombined"]

SWEEPS = 3
"""Rounds over the parts, at most."""


def recombined(
    products: Float[Tensor, "N N"],
    penalties: Float[Tensor, "n parts"],
    start: Int[Tensor, " parts"],
    unit: bool,
) -> Int[Tensor, " parts"]:
    """Return, for each part, the point it is taken from so that the sum fits the target best.

    Each part in turn takes the point that is best beside the others', until none changes; of a single part
    that is the best point. No value is computed: only products of known ones.

    Args:
        products: of the target, then of all parts of all points, as a record has them.
        penalties: added to the misfit, of every part of every point.
        start: to begin with.
        unit: whether directions are compared.
    """
    chosen, parts = start.clone(), penalties.shape[1]
    for _ in range(SWEEPS):
        before = chosen.clone()
        for part in range(parts):
            misfits = beside_others(products, chosen, part, unit)
            chosen[part] = int((misfits + penalties[:, part]).argmin())
        if torch.equal(chosen, before):
            break
    return chosen


def beside_others(
    products: Float[Tensor, "N N"], chosen: Int[Tensor, " parts"], part: int, unit: bool
) -> Float[Tensor, " n"]:
    """Return the misfit of every point's `part`, the other parts taken from the points that are chosen."""
    parts = len(chosen)
    own = torch.arange(1 + part, len(products), parts)
    others = rows_of(chosen)[torch.arange(parts) != part]
    square = products[others[:, None], others].sum()
    squares = square + 2 * products[own][:, others].sum(1) + products[own, own]
    along = products[0, others].sum() + products[own, 0]
    return _misfits(squares, along, products[0, 0], unit)


def merits(
    products: Float[Tensor, "N N"], penalties: Float[Tensor, "n parts"], unit: bool
) -> Float[Tensor, " n"]:
    """Return the misfit of every whole point, penalties included."""
    n, parts = penalties.shape
    inner = products[1:, 1:].view(n, parts, n, parts)
    squares = torch.einsum("npnq->n", inner)
    along = products[0, 1:].view(n, parts).sum(1)
    return _misfits(squares, along, products[0, 0], unit) + penalties.sum(1)


def _misfits(squares: Tensor, along: Tensor, target: Tensor, unit: bool) -> Tensor:
    """Return ½‖r‖² from products of values less the target: of itself, and with the target."""
    target = target.clamp_min(1e-30)
    if not unit:
        return squares / (2 * target)
    lengths = (squares + 2 * along + target).clamp_min(1e-30).sqrt() * target.sqrt()
    return 1 - ((along + target) / lengths).clamp(-1, 1)  # products are rounded
