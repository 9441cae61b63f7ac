"""Lanczos and conjugate gradients for many symmetric problems side by side, by products alone.

Vectors are kept in float64 whatever the products' own precision is.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

__all__ = ["Operator", "Solution", "Spectrum", "largest_eigenvalues", "solve_shifted", "steps_needed"]

Operator: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From vectors (m, d) and the numbers (m,) of their problems to the products A v (m, d).

Every A is symmetric with no negative eigenvalue."""

CHECK_EVERY = 4
"""Lanczos steps between two looks at the spectrum, which cost an eigendecomposition."""


@dataclass(frozen=True)
class Spectrum:
    """The largest eigenvalue of every problem.

    Attributes:
        values: (n,), at most the true ones, rounding apart.
        residuals: (n,) of the Ritz pairs: an eigenvalue lies as near as this.
        converged: (n,), whether the residual is at most the tolerance times the value.
    """

    values: Float64[Tensor, " n"]
    residuals: Float64[Tensor, " n"]
    converged: Bool[Tensor, " n"]


@dataclass(frozen=True)
class Solution:
    """The solutions of many linear systems.

    Attributes:
        x: (n, d).
        residuals: (n,), ‖b - A x‖ / ‖b‖, computed anew at the end; 0 where b is 0.
        converged: (n,), whether the residual is at most the tolerance.
    """

    x: Float64[Tensor, "n d"]
    residuals: Float64[Tensor, " n"]
    converged: Bool[Tensor, " n"]


def largest_eigenvalues(
    operator: Operator, start: Float[Tensor, "n d"], *, tolerance: float, max_steps: int | None = None
) -> Spectrum:
    """Return the largest eigenvalue of every problem by Lanczos with full reorthogonalization.

    A problem ends where the residual of its largest Ritz pair, β_m |s_m| (Parlett, The Symmetric
    Eigenvalue Problem, section 13.2), is at most `tolerance` times the Ritz value; all end after d steps.

    Args:
        operator: products with the n matrices.
        start: a vector for every problem, not zero.
        tolerance: of the residual, relative.
        max_steps: products of each problem at most; d by default.
    """
    start = start.double()
    n, d = start.shape
    steps = d if max_steps is None else min(d, max_steps)
    rows = torch.arange(n, device=start.device)
    values, residuals = start.new_zeros(n), start.new_zeros(n)
    basis = (start / start.norm(dim=1, keepdim=True))[:, None]
    alphas, betas = start.new_zeros(n, 0), start.new_zeros(n, 0)
    for step in range(1, steps + 1):
        q = basis[:, -1]
        w = operator(q, rows).double()
        alphas = torch.cat([alphas, (w * q).sum(1, keepdim=True)], dim=1)
        w = _orthogonal(_orthogonal(w, basis), basis)
        beta = w.norm(dim=1, keepdim=True)
        betas = torch.cat([betas, beta], dim=1)
        if step % CHECK_EVERY == 0 or step == steps:
            values[rows], residuals[rows] = _largest_ritz_pair(alphas, betas)
            is_open = residuals[rows] > tolerance * values[rows]
            if not is_open.any():
                break
            rows, basis, alphas, betas = rows[is_open], basis[is_open], alphas[is_open], betas[is_open]
            w, beta = w[is_open], beta[is_open]
        # Where the Krylov space is exhausted w is 0 and stays so: the Ritz values keep still.
        basis = torch.cat([basis, torch.where(beta > 0, w / beta, 0.0)[:, None]], dim=1)
    return Spectrum(values, residuals, residuals <= tolerance * values)


def solve_shifted(
    operator: Operator,
    b: Float[Tensor, "n d"],
    shift: Float[Tensor, " n"],
    *,
    tolerance: float,
    max_steps: int,
) -> Solution:
    """Return x of (A + shift I) x = b for every problem by conjugate gradients from x = 0.

    Every step makes ‖x‖ larger, towards the solution's (Steihaug 1983): a solve that ends early errs
    towards 0.

    Args:
        operator: products with the n matrices A.
        b: the right-hand sides.
        shift: what is added to each diagonal, above 0.
        tolerance: of ‖b - A x‖ / ‖b‖.
        max_steps: products of each problem at most; see `steps_needed`.
    """
    b, shift = b.double(), shift.double()
    x, goal = torch.zeros_like(b), tolerance * b.norm(dim=1)
    rows = torch.arange(len(b), device=b.device)[b.norm(dim=1) > 0]
    r = b[rows]
    p, squares = r, r.square().sum(1)
    for _ in range(max_steps):
        if not len(rows):
            break
        moved = operator(p, rows).double() + shift[rows, None] * p
        alpha = squares / (p * moved).sum(1)
        x[rows] += alpha[:, None] * p
        r = r - alpha[:, None] * moved
        before, squares = squares, r.square().sum(1)
        p = r + (squares / before)[:, None] * p
        is_open = squares.sqrt() > goal[rows] / 2  # half, for what rounding hides from the recursion
        rows, r, p, squares = rows[is_open], r[is_open], p[is_open], squares[is_open]
    every = torch.arange(len(b), device=b.device)
    left = (b - operator(x, every).double() - shift[:, None] * x).norm(dim=1)
    residuals = torch.where(goal > 0, left * tolerance / goal, 0.0)
    return Solution(x, residuals, residuals <= tolerance)


def steps_needed(condition: float, tolerance: float) -> int:
    """Return after how many steps conjugate gradients have converged, rounding apart.

    The residual's bound is 2 √κ ((√κ - 1) / (√κ + 1))^k; half the tolerance is asked for.
    """
    root = math.sqrt(condition)
    return math.ceil(root / 2 * math.log(4 * root / tolerance)) + 1


def _orthogonal(w: Tensor, basis: Tensor) -> Tensor:
    """Return w (m, d) without its part in the span of basis (m, k, d), whose rows are orthonormal."""
    shares = torch.einsum("mkd,md->mk", basis, w)
    return w - torch.einsum("mk,mkd->md", shares, basis)


def _largest_ritz_pair(alphas: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest Ritz value and its residual, of tridiagonal matrices by their diagonals."""
    off = torch.diag_embed(betas[:, :-1], offset=1)
    values, vectors = torch.linalg.eigh(torch.diag_embed(alphas) + off + off.mT)
    return values[:, -1].clamp(min=0), betas[:, -1] * vectors[:, -1, -1].abs()
