"""Composite Bayesian optimization: the loss as a known function of residuals, which are what is modeled."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

__all__ = ["principal_residuals", "squared_residual"]

SMALLEST = 1e-12
"""Share of the largest principal variance below which a direction is rounding, and left out."""


def principal_residuals(residuals: Float[Tensor, "n m"], count: int) -> Float[Tensor, "n k"]:
    """Return residuals on their principal directions, and last the square of what is left of each.

    rᵢ = r̄ + Σ cᵢⱼ bⱼ + εᵢ, and ‖rᵢ‖² = Σ (r̄·bⱼ + cᵢⱼ)² + (what is left), exactly: a model of these numbers is
    one of the loss that knows it to be a sum of squares.

    Args:
        residuals: what each point came to less the target.
        count: k - 1 principal directions, the largest last; zeros stand for those that are not there.
    """
    products = residuals @ residuals.T
    centered = products - products.mean(0) - products.mean(1, keepdim=True) + products.mean()
    squares, directions = torch.linalg.eigh(centered)
    varied = squares > SMALLEST * squares[-1].clamp_min(SMALLEST)
    points = torch.where(varied, directions / squares.clamp_min(SMALLEST**2).sqrt(), 0.0)
    points = functional.pad(points, (max(0, count - len(points)), 0))[:, -count:]
    coordinates = products @ (points - points.mean(0))
    left = products.diagonal() - coordinates.square().sum(1)
    return torch.cat([coordinates, left.clamp_min(0)[:, None]], dim=1)


def squared_residual(numbers: Float[Tensor, "*n k"]) -> Float[Tensor, "*n"]:
    """Return the squared length of residuals of which `principal_residuals` are measured, or drawn."""
    return numbers[..., :-1].square().sum(-1) + numbers[..., -1].clamp_min(0)
