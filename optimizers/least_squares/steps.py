"""Damped steps of a least-squares problem, and the penalty that keeps latents plausible."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["damped_steps", "off_shell", "penalized"]

POWER_STEPS = 20
"""Of the iteration for the largest eigenvalue: damping needs no more than its size."""


def off_shell(z: Float[Tensor, "... d"]) -> Float[Tensor, "..."]:
    """Return ‖z‖²/d - 1, 0 on the Gaussian shell."""
    return z.square().sum(-1) / z.shape[-1] - 1


def penalized(
    square: Float[Tensor, "D D"], slope: Float[Tensor, " D"], z: Float[Tensor, "parts d"], weight: float
) -> tuple[Tensor, Tensor]:
    """Return normal equations with a residual more for every part: √(2w/parts) (‖z‖²/d - 1)."""
    parts, d = z.shape
    scale = (2 * weight / parts) ** 0.5
    rows = torch.block_diag(*(scale * 2 / d * z))
    return square + rows.T @ rows, slope + rows.T @ (scale * off_shell(z))


def damped_steps(
    square: Float[Tensor, "D D"], slope: Float[Tensor, " D"], dampings: Float[Tensor, " k"]
) -> Float[Tensor, "k D"]:
    """Return -(S + μ λ_max I)⁻¹ s for every damping μ; no step where rounding has left no such inverse."""
    direction = torch.ones_like(slope)
    for _ in range(POWER_STEPS):
        direction = square @ direction
        direction = direction / direction.norm().clamp_min(1e-30)
    largest = (direction @ square @ direction).clamp_min(1e-30)
    eye = torch.eye(len(slope), dtype=slope.dtype)
    damped = square + dampings[:, None, None] * largest * eye
    steps, failed = torch.linalg.solve_ex(damped, slope)
    solved = (failed == 0) & steps.isfinite().all(1)
    return torch.where(solved[:, None], -steps, 0.0)
