"""TuRBO's trust region (arXiv 1910.01739, sections 2 and 3): its length, its sides, its candidates."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["TrustRegion", "box", "perturb"]

INITIAL_LENGTH, SHORTEST, LONGEST = 0.8, 0.5**7, 1.6
SUCCESSES = 3
PERTURBED = 20
"""Coordinates that a candidate changes, on average (the paper's min(1, 20/d))."""


@dataclass
class TrustRegion:
    """The length of a region's base side, in units of the box, and what it follows from.

    Doubled after three batches in a row that improved; halved once max(4, d) evaluations in a row did not:
    with batches of q that is the paper's ⌈max(4/q, d/q)⌉ batches, and it holds for batches of any size.
    """

    dim: int
    length: float = INITIAL_LENGTH
    successes: int = 0
    failures: int = 0

    def update(self, improved: bool, evaluations: int) -> None:
        """Take a batch: whether its best was below the region's best before it, and its size."""
        self.successes = self.successes + 1 if improved else 0
        self.failures = 0 if improved else self.failures + evaluations
        if self.successes == SUCCESSES:
            self.length, self.successes = min(2 * self.length, LONGEST), 0
        elif self.failures >= max(4, self.dim):
            self.length, self.failures = self.length / 2, 0

    @property
    def collapsed(self) -> bool:
        """Whether the region is to be started anew."""
        return self.length < SHORTEST


def box(center: Float[Tensor, " d"], length: float, scales: Float[Tensor, " d"]) -> Float[Tensor, "2 d"]:
    """Return the region's corners, clipped to the unit box.

    The sides are length · λᵢ / (∏ λⱼ)^(1/d) for the length scales λ: their geometric mean is the length.
    """
    half = 0.5 * length * (scales.log() - scales.log().mean()).exp()
    return torch.stack([center - half, center + half]).clamp(0, 1)


def perturb(
    center: Float[Tensor, " d"], corners: Float[Tensor, "2 d"], count: int, seed: int
) -> Float[Tensor, "n d"]:
    """Return Sobol points of the region, of which a coordinate is kept with probability min(1, 20/d).

    The other coordinates are the center's; every point differs from it in at least one.
    """
    dim = len(center)
    engine = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed)
    sobol = engine.draw(count, dtype=torch.float64).to(center)
    points = corners[0] + sobol * (corners[1] - corners[0])
    random = torch.Generator().manual_seed(seed)
    moved = torch.rand(count, dim, generator=random, dtype=torch.float64) < min(1.0, PERTURBED / dim)
    forced = torch.randint(dim, (count, 1), generator=random)
    moved |= ~moved.any(1, keepdim=True) & (torch.arange(dim) == forced)
    return torch.where(moved.to(center.device), points, center)
