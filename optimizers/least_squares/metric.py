"""By which products a sum of squares is measured: all coordinates alike, or by the errors of the model."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ggl.optimizers.least_squares.record import Record

__all__ = ["Metric"]

MEMORY = 0.5
"""Share of what was known that is kept when errors are measured anew."""

UNEXPLAINED = 0.3
"""Of a group's squared residual, what is counted as noise: of the observation, or out of reach."""

FLOOR = 1e-3
"""No group is trusted less than by so much for the share of its changes that the model explains."""

SUBSPACE = 1e-2
"""Variance outside the span of known errors, of that within."""

ROUNDING = 1e-5
"""Of the squares that an error is the difference of: one below it is not taken for an error."""

TINY = 1e-30


class Metric:
    """Weights for groups of coordinates, and the errors that the model is known to make.

    Generalized least squares: a group is weighted by the inverse of its error, measured on candidates that
    the model did not know, times the share of its changes that was foretold. Directions in which the model
    erred before are taken out, by (I + EᵀE/κ)⁻¹ with E the errors, of unit length.

    Attributes:
        noise: (groups,), mean squared error of a candidate.
        change: (groups,), mean squared change of a candidate.
    """

    def __init__(self, noise: Tensor, change: Tensor) -> None:
        self.noise, self.change = noise, change
        self.weights = torch.ones_like(noise)

    def learn(
        self,
        record: Record,
        errors: Float[Tensor, "k N"],
        changes: Float[Tensor, "k N"],
        known: Float[Tensor, "e M"],
    ) -> None:
        """Take the errors of new candidates, and how they differ from the point before, as coefficients."""
        noise, change = (
            _squares(record.products, self._outside(record, x, known)).mean(1) for x in (errors, changes)
        )
        self.noise = MEMORY * self.noise + (1 - MEMORY) * noise
        self.change = MEMORY * self.change + (1 - MEMORY) * change

    def weigh(self, record: Record, rows: Tensor) -> None:
        """Set the weights, of the point whose parts are in these rows of the products."""
        sizes = torch.tensor(record.sizes, dtype=torch.float64)
        residual = record.products[:, rows[:, None], rows].sum((1, 2))
        variance = (self.noise + UNEXPLAINED * residual) / sizes
        foretold = (1 - self.noise / self.change.clamp_min(TINY)).clamp(FLOOR, 1)
        weights = foretold / variance.clamp_min(1e-12 * float((record.products[:, 0, 0] / sizes).max()))
        self.weights = weights / weights.max()

    def products(self, record: Record, errors: Float[Tensor, "k M"]) -> Float[Tensor, "N N"]:
        """Return the products in this metric, of all values of a record."""
        weighted, _, along, inverse = self._known(record, errors)
        return weighted - along @ inverse @ along.T

    def _outside(self, record: Record, coefficients: Tensor, errors: Tensor) -> Tensor:
        """Return vectors without what lies along known errors."""
        _, errors, along, inverse = self._known(record, errors)
        return coefficients - coefficients @ along @ inverse @ errors

    def _known(self, record: Record, errors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return weighted products W, errors E of at most unit length, WEᵀ, and (κI + EWEᵀ)⁻¹."""
        weighted = torch.einsum("g,gij->ij", self.weights, record.products)
        errors = torch.nn.functional.pad(errors, (0, len(weighted) - errors.shape[1]))
        squares = torch.einsum("ki,ij,kj->k", errors, weighted, errors)
        rounding = ROUNDING * (errors.square() @ weighted.diagonal())
        errors = errors / squares.maximum(rounding).clamp_min(TINY).sqrt()[:, None]
        along = weighted @ errors.T
        eye = torch.eye(len(errors), dtype=torch.float64)
        return weighted, errors, along, torch.linalg.inv(SUBSPACE * eye + errors @ along)

    def state(self) -> dict[str, Tensor]:
        """Return everything as tensors."""
        return {"noise": self.noise, "change": self.change, "weights": self.weights}

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> "Metric":
        """Return what `state` was made of."""
        metric = cls(state["noise"], state["change"])
        metric.weights = state["weights"]
        return metric


def _squares(products: Float[Tensor, "g N N"], coefficients: Float[Tensor, "k N"]) -> Float[Tensor, "g k"]:
    return torch.einsum("ki,gij,kj->gk", coefficients, products, coefficients).clamp_min(0)
