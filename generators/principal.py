"""Principal directions of a few long rows, such as a network's activations."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["principal_directions"]

COLUMNS = 16_384
"""Of the rows that are multiplied at once."""


@torch.no_grad()
def principal_directions(
    rows: Float[Tensor, "n size"], d: int, freedom: int
) -> tuple[Float[Tensor, "d size"], Float[Tensor, "n d"]]:
    """Return the d principal directions of centered rows times their standard deviations, and coordinates.

    Row i of B is s_i v_i: v_i is a unit eigenvector of XᵀX, s_i² its eigenvalue over `freedom`, which is n
    less what centering took. U has unit variance, and U B are the rows' projections. The eigenvectors come
    from the n x n matrix X Xᵀ, so that nothing of size x size is ever made. Each direction's sign is such
    that its largest entry is positive.
    """
    square = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for part in rows.split(COLUMNS, dim=1):
        square += part @ part.T
    vectors = torch.linalg.eigh(square).eigenvectors.flip(1)[:, :d].to(rows.dtype)
    directions = vectors.T @ rows / freedom**0.5
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    signs = torch.where(largest < 0, -1.0, 1.0).to(rows.dtype)
    return directions.mul_(signs), freedom**0.5 * vectors * signs.T
