"""A linear model of what latents come to, fitted to the points around one."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ggl.optimizers.least_squares.record import Record, rows_of

__all__ = ["Equations", "Linearization"]

POWER = 4
"""Of a point's distance, by which its weight in the fit falls: what curvature makes of a difference grows
with the square of its length."""

NEAR = 0.05
"""Distance below which points count as equally near: what they differ by drowns in rounding."""

RIDGE = 1e-4
"""Of the fit, a share of the mean diagonal."""

FREE = 0.1
"""A point that the fit explains by this much less than wholly has an error of its own to show."""

ROUNDING = 1e-12
"""Of the largest square: one below it is rounding, and has no direction."""

TINY = 1e-30


class Equations(NamedTuple):
    """Of the residuals of all parts: JᵀJ (D, D), Jᵀr (D,), and ½‖r‖²."""

    square: Tensor
    slope: Tensor
    merit: Tensor


class Linearization:
    """The Jacobian of every part at a point of its own, by weighted least squares over a record's points.

    J = argmin Σᵢ ‖vᵢ - v₀ - J (zᵢ - z₀)‖² / ‖zᵢ - z₀‖⁴, so that Jᵀ = A V of the points' values V: what is
    held is A, and products of J are products of values. Differences are such points, and so is every
    candidate since (regression models: Conn, Scheinberg, Vicente 2009, chapter 4).

    Attributes:
        center: (parts,), the point of each part; they are those of one candidate, or recombined.
        weights: A, (parts, d, n); rows add up to 0.
    """

    def __init__(self, record: Record, center: Int[Tensor, " parts"]) -> None:
        self.center = center
        self.z = record.at(center)
        steps = (record.z - self.z).transpose(0, 1)  # parts first
        squares = steps.square().sum(-1)
        there = squares > 0
        nearest = torch.where(there, squares, torch.inf).amin(1, keepdim=True).clamp_min(NEAR**2)
        importance = torch.where(there, (nearest / squares.clamp_min(NEAR**2)) ** (POWER / 2), 0.0)
        weighted = (steps * importance[..., None]).transpose(1, 2)
        normal = weighted @ steps
        ridge = RIDGE * normal.diagonal(dim1=1, dim2=2).mean(1).clamp_min(TINY)
        damped = normal + ridge[:, None, None] * torch.eye(normal.shape[1], dtype=normal.dtype)
        weights = torch.linalg.solve(damped, weighted)
        places = torch.arange(record.parts)
        weights[places, :, center] -= weights.sum(2)
        self.weights = weights

    def changes(self, record: Record, first: int, count: int) -> Float[Tensor, "k N"]:
        """Return, as coefficients, how points differ from the center, their parts together."""
        coefficients = torch.zeros(count, len(record), record.parts, dtype=torch.float64)
        coefficients[torch.arange(count), first + torch.arange(count)] += 1
        coefficients[:, self.center, torch.arange(record.parts)] -= 1
        return _with_target(coefficients)

    def errors(self, record: Record, first: int, count: int) -> Float[Tensor, "k N"]:
        """Return the same less what the model foretold; it was fitted to the points before `first`."""
        foretold = torch.zeros(count, len(record), record.parts, dtype=torch.float64)
        steps = record.z[first : first + count] - self.z
        foretold[:, :first] = torch.einsum("kpd,pdn->knp", steps, self.weights)
        return self.changes(record, first, count) - _with_target(foretold)

    def misfits(self, record: Record, most: int) -> Float[Tensor, "k N"]:
        """Return, as coefficients, what the fit leaves of its nearest points, at most so many in all."""
        n, parts = len(record), record.parts
        found = []
        for part in range(parts):
            steps = record.z[:, part] - self.z[part]
            left = torch.eye(n, dtype=torch.float64) - steps @ self.weights[part]
            left[:, self.center[part]] -= 1
            shown = left.diagonal() > FREE
            shown[self.center[part]] = False
            distance = torch.where(shown, steps.square().sum(1), torch.inf)
            rows = distance.argsort()[: min(int(shown.sum()), most // parts)]
            own = torch.zeros(len(rows), n, parts, dtype=torch.float64)
            own[:, :, part] = left[rows]
            found.append(own)
        return _with_target(torch.cat(found))

    def equations(self, products: Float[Tensor, "N N"], unit: bool) -> Equations:
        """Return the equations of the residuals in the metric of `products`.

        With unit vectors r = v/‖v‖ - t/‖t‖ and ∂r = (I - v̂ v̂ᵀ) ∂v / ‖v‖; else r = (v - t)/‖t‖.
        """
        parts, d, n = self.weights.shape
        rows = rows_of(self.center)
        inner = products[1:, 1:].view(n, parts, n, parts)
        half = torch.einsum("pdn,npmq->pdmq", self.weights, inner)
        square = torch.einsum("pdmq,qem->pdqe", half, self.weights).reshape(parts * d, parts * d)
        along_value, along_target = products[:, 0].clone(), products[:, 0]
        along_value += products[:, rows].sum(1)
        floor = ROUNDING * products.diagonal().max().clamp_min(TINY)
        value = (along_value[0] + along_value[rows].sum()).clamp_min(floor)
        target = along_target[0].clamp_min(floor)
        both = along_target[0] + along_target[rows].sum()
        slope_value, slope_target = (self._transposed(x) for x in (along_value, along_target))
        if not unit:
            merit = ((value - 2 * both + target) / (2 * target)).clamp_min(0)
            return Equations(square / target, (slope_value - slope_target) / target, merit)
        norm, length = value.sqrt(), target.sqrt()
        cosine = (both / (norm * length)).clamp(-1, 1)  # products are rounded
        along = slope_value / norm
        return Equations(
            (square - torch.outer(along, along)) / norm**2,
            (cosine * along - slope_target / length) / norm,
            1 - cosine,
        )

    def _transposed(self, products: Tensor) -> Float[Tensor, " D"]:
        """Return Jᵀx of a vector's products with the target and all values."""
        parts, _, n = self.weights.shape
        return torch.einsum("pdn,np->pd", self.weights, products[1:].view(n, parts)).flatten()


def _with_target(coefficients: Float[Tensor, "k n parts"]) -> Float[Tensor, "k N"]:
    """Return coefficients of all rows of a record's products: none of the target."""
    return torch.nn.functional.pad(coefficients.flatten(1), (1, 0))
