"""Every eigenpair of many symmetric problems, where they are small enough to be built."""

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from ggl.i2f.krylov import Operator, Solution

__all__ = ["Eigenpairs", "all_eigenpairs", "fit_in_memory"]

MOST_NUMBERS = 2**28
"""Of all eigenvectors together: 2 GiB."""

ROWS = 64
"""Unit vectors that one product takes."""


@dataclass(frozen=True)
class Eigenpairs:
    """Of n problems of d dimensions.

    Attributes:
        values: (n, d), ascending, none below 0.
        vectors: (n, d, d), one a column.
    """

    values: Float64[Tensor, "n d"]
    vectors: Float64[Tensor, "n d d"]

    @property
    def largest(self) -> Float64[Tensor, " n"]:
        """The largest eigenvalues."""
        return self.values[:, -1]

    def solve(
        self,
        b: Float64[Tensor, "m d"],
        problems: Int[Tensor, " m"],
        shift: Float64[Tensor, " m"],
        tolerance: float,
    ) -> Solution:
        """Return (A + shift I)⁻¹ b of each row's problem; residuals are of the matrices as decomposed."""
        solved, residuals = torch.empty_like(b), torch.zeros(len(b), dtype=b.dtype, device=b.device)
        for row, (vector, k) in enumerate(zip(b, problems.tolist(), strict=True)):
            basis, diagonal = self.vectors[k], self.values[k] + shift[row]
            solved[row] = basis @ ((basis.T @ vector) / diagonal)
            left = vector - basis @ (diagonal * (basis.T @ solved[row]))
            residuals[row] = left.norm() / vector.norm().clamp_min(torch.finfo(b.dtype).tiny)
        return Solution(solved, residuals, residuals <= tolerance)


def fit_in_memory(problems: int, dimension: int) -> bool:
    """Say whether so many problems' eigenvectors are held at once."""
    return problems * dimension**2 <= MOST_NUMBERS


def all_eigenpairs(operator: Operator, problem: int, like: Float64[Tensor, " d"]) -> Eigenpairs:
    """Return the eigenpairs of one problem, its matrix built of d products.

    Args:
        operator: of symmetric matrices with no negative eigenvalue.
        problem: the number of one.
        like: any vector on the operator's device.
    """
    unit = torch.eye(len(like), dtype=like.dtype, device=like.device)
    rows = [operator(part, torch.full((len(part),), problem)) for part in unit.split(ROWS)]
    matrix = torch.cat(rows).to(like)
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return Eigenpairs(values.clamp_min(0)[None], vectors[None])
