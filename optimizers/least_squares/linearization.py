"""A linear model of what latents come to, kept up to date by secants."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Linearization"]

TINY = 1e-30


class Linearization:
    """A point, what it came to, and the Jacobians of its parts.

    Attributes:
        z: (parts, d), the point; parts are what has latents and values of its own: images of a batch.
        values: (parts, m) at the point.
        jacobian: (parts, m, d).
    """

    def __init__(self, z: Tensor, values: Tensor, jacobian: Tensor) -> None:
        self.z, self.values, self.jacobian = z, values, jacobian

    @classmethod
    def by_differences(cls, z: Tensor, values: Tensor, steps: Tensor, found: Tensor) -> "Linearization":
        """Return it from the values (k, parts, m) found at z plus orthogonal steps (k, parts, d)."""
        scaled = steps / steps.square().sum(-1, keepdim=True).clamp_min(TINY)
        return cls(z, values, torch.einsum("kpm,kpd->pmd", found - values, scaled))

    def update(self, z: Tensor, values: Tensor, regularization: float) -> None:
        """Correct the Jacobians by what points (n, parts, d) came to: the least change that explains it.

        J ← J + Eᵀ (ΔZ ΔZᵀ + λ I)⁻¹ ΔZ with E the errors of prediction (Broyden, 1965, of several secants), λ
        a share of the mean squared step.
        """
        steps, errors = z - self.z, values - self.values
        steps, errors = steps.transpose(0, 1), errors.transpose(0, 1)  # parts first
        errors = errors - steps @ self.jacobian.transpose(1, 2)
        products = steps @ steps.transpose(1, 2)
        ridge = regularization * products.diagonal(dim1=1, dim2=2).mean(1).clamp_min(TINY)
        damped = products + ridge[:, None, None] * torch.eye(products.shape[1], dtype=products.dtype)
        self.jacobian = self.jacobian + errors.transpose(1, 2) @ torch.linalg.solve(damped, steps)

    def move(self, z: Tensor, values: Tensor) -> None:
        """Take another point, what it came to, and the same Jacobians."""
        self.z, self.values = z, values

    def normal_equations(
        self, target: Tensor, unit: bool
    ) -> tuple[Float[Tensor, "D D"], Float[Tensor, " D"]]:
        """Return JᵀJ and Jᵀr of the residuals of the parts' sum, of all D = parts · d coordinates.

        With unit vectors r = v/‖v‖ - t/‖t‖ and ∂r = (I - v̂ v̂ᵀ) ∂v / ‖v‖; else r = (v - t)/‖t‖.
        """
        jacobian = self.jacobian.permute(1, 0, 2).flatten(1)
        value, length = self.values.sum(0), target.norm().clamp_min(TINY)
        if not unit:
            jacobian, residual = jacobian / length, (value - target) / length
            return jacobian.T @ jacobian, jacobian.T @ residual
        norm = value.norm().clamp_min(TINY)
        direction = value / norm
        residual = direction - target / length
        along = jacobian.T @ direction
        square = jacobian.T @ jacobian - torch.outer(along, along)
        return square / norm**2, (jacobian.T @ residual - along * (direction @ residual)) / norm

    def state(self) -> dict[str, Tensor]:
        """Return everything as tensors."""
        return {"point": self.z, "values": self.values, "jacobian": self.jacobian}

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> "Linearization":
        """Return what `state` was made of."""
        return cls(state["point"], state["values"], state["jacobian"])
