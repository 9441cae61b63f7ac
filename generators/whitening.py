"""Standard-normal coordinates of a cloud of points, such as a style space or class embeddings."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["whitening_of"]

FLOOR = 1e-6
"""Smallest variance of a direction, relative to the largest."""


@torch.no_grad()
def whitening_of(points: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Return the points' mean m and the symmetric root Σ^½ of their covariance, in float64.

    Then x = m + Σ^½ u has that mean and covariance where u is standard normal. The symmetric root,
    V diag(√λ) Vᵀ, is unique, unlike the eigenvectors: coordinates kept in a checkpoint mean the same on
    every machine. A variance below `FLOOR` of the largest is raised to it, so that x and u determine
    each other.
    """
    points = points.double()
    values, vectors = torch.linalg.eigh(points.T.cov())
    root: Tensor = (vectors * values.clamp_min(FLOOR * values[-1]).sqrt()) @ vectors.T
    return points.mean(0), root
