"""Whether an objective is smooth at the length of a difference: forth and back agree, or not."""

from typing import NamedTuple

import torch
from torch import Tensor

from ggl.optimizers.least_squares.record import Record

__all__ = ["PAIRS", "Roughness", "measure_roughness"]

PAIRS = 4
"""Differences that are taken back too."""


class Roughness(NamedTuple):
    """What differences forth and back say, by group of coordinates.

    Attributes:
        noise: (groups,), squared error of a difference: half the square of forth and back together, 0 where
            values are linear.
        change: (groups,), squared difference.
    """

    noise: Tensor
    change: Tensor

    @property
    def worst(self) -> float:
        """The largest share of a group's squared differences that is error; about 1 where they are random."""
        return float((self.noise / self.change.clamp_min(1e-30)).nan_to_num(0.0).max())


def measure_roughness(record: Record, center: Tensor, first: int, pairs: int) -> Roughness:
    """Return it of differences that a record holds from its point `first` on: d, then some of them back."""
    forth = first + torch.arange(pairs)
    back = forth + record.z.shape[2]
    noise = _squares(record, center, forth, back, 1) / 2
    return Roughness(noise, _squares(record, center, forth, back, -1) / 4 + noise / 2)


def _squares(record: Record, center: Tensor, forth: Tensor, back: Tensor, sign: int) -> Tensor:
    """Return, by group, the mean ‖forth + sign · back - (1 + sign) center‖² of the parts' sums."""
    parts = record.parts
    coefficients = torch.zeros(len(forth), len(record), parts, dtype=torch.float64)
    each = torch.arange(len(forth))
    coefficients[each, forth] += 1
    coefficients[each, back] += sign
    coefficients[:, center, torch.arange(parts)] -= 1 + sign
    flat = coefficients.flatten(1)
    return torch.einsum("ki,gij,kj->g", flat, record.products[:, 1:, 1:], flat).clamp_min(0) / len(forth)
