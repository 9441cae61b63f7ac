"""What a search is told that minimizes a sum of squares: the residuals, and not their sum alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Residuals"]

TINY = 1e-30


@dataclass(frozen=True)
class Residuals:
    """What n candidates came to, of which the target is wanted.

    The values of a batch are the sum of its parts': every image's own share, or one part where the images
    can't be told apart.

    Attributes:
        values: (n, parts, m).
        target: (m,).
        unit: whether the loss compares directions: ‖v/‖v‖ - t/‖t‖‖²; else it is ‖v - t‖².
        groups: coordinates of each group, in their order, that behave alike: of a layer; none for one group.
    """

    values: Float[Tensor, "n parts m"]
    target: Float[Tensor, " m"]
    unit: bool
    groups: Sequence[int] = ()

    def sorted(self, order: Tensor) -> "Residuals":
        """Return the same of candidates in another order, in float64 on the CPU, zero where not finite."""
        values = self.values.detach().to("cpu", torch.float64)[order].nan_to_num(0.0, 0.0, 0.0)
        return Residuals(values, self.target.detach().to("cpu", torch.float64), self.unit, self.groups)

    def compared(self) -> tuple[Float[Tensor, "n m"], Float[Tensor, " m"]]:
        """Return what candidates came to and the target, in the target's lengths.

        Where directions are compared, everything has length 1.
        """
        values, length = self.values.sum(1), self.target.norm().clamp_min(TINY)
        if self.unit:
            return values / values.norm(dim=1, keepdim=True).clamp_min(TINY), self.target / length
        return values / length, self.target / length
