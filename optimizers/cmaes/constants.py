"""CMA-ES's strategy parameters: Hansen (arXiv 1604.00772), table 1, with pycma 4.5's departures."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ggl.base.errors import InputError

__all__ = ["Constants", "constants", "default_population"]

SMALLEST_POPULATION = 3
EXACT_LENGTHS = 100
RANK_MU_OFFSET = 0.25
STALENESS = 0.02


@dataclass(frozen=True)
class Constants:
    """What a search's dimension and population fix; names are the paper's."""

    dim: int
    weights: tuple[float, ...]
    """Recombination weights by rank: the positive ones sum to 1, the negative ones are final (53)."""
    mueff: float
    cs: float
    damping: float
    cc: float
    c1: float
    cmu: float

    @property
    def gap(self) -> float:
        """Generations between eigendecompositions: the covariance changes by some 2 % in between.

        Appendix B.2 has 1 / (10 d (c1 + cmu)), which bounds the cost instead; pycma's `updatecovwait`.
        """
        return STALENESS / (self.c1 + self.cmu)

    @cached_property
    def mean_length(self) -> float:
        """E‖N(0, I)‖: exact to d = 100 and an expansion beyond, as in pycma."""
        d = self.dim
        if d <= EXACT_LENGTHS:
            return math.sqrt(2) * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))
        return math.sqrt(d) * (1 - 1 / (4 * d) + 1 / (32 * d**2))

    @property
    def total_weight(self) -> float:
        """The sum of all weights."""
        return sum(self.weights)

    def by_rank(self, device: torch.device) -> Tensor:
        """Return the weights as a tensor (λ,)."""
        return torch.tensor(self.weights, dtype=torch.float64, device=device)


def default_population(dim: int) -> int:
    """Return λ = 4 + ⌊3 ln d⌋ (48)."""
    return 4 + int(3 * math.log(dim))


def constants(dim: int, population: int, *, separable: bool) -> Constants:
    """Return the parameters of a search over `dim` coordinates.

    Raises:
        InputError: a population below 3.
    """
    if population < SMALLEST_POPULATION:
        raise InputError(
            f"CMA-ES: expected a population of at least {SMALLEST_POPULATION}, found {population}"
        )
    raw = [math.log((population + 1) / 2) - math.log(rank) for rank in range(1, population + 1)]  # (49)
    positive = [w for w in raw if w > 0]
    mueff = sum(positive) ** 2 / sum(w**2 for w in positive)
    cc, c1, cmu = (_separable_rates if separable else _rates)(dim, population, mueff)
    cs = min(0.5, (mueff + 2) / (dim + mueff + 3))  # (55); the paper has d + mueff + 5
    return Constants(
        dim=dim,
        weights=_final_weights(raw, dim, mueff, c1, cmu, separable=separable),
        mueff=mueff,
        cs=cs,
        damping=_damping(dim, mueff, cs),
        cc=cc,
        c1=c1,
        cmu=cmu,
    )


def _damping(dim: int, mueff: float, cs: float) -> float:
    """Return d_σ (55); pycma damps populations that are large for the dimension by up to three times more."""
    more = max(1.0, 3 * (1 - math.pow(0.5, dim / 9)))
    return 1 + 2 * max(0.0, more * math.sqrt((mueff - 1) / (dim + 1)) - 1) + cs


def _rates(dim: int, population: int, mueff: float) -> tuple[float, float, float]:
    """Return cc (56), c1 (57) and cmu (58); pycma lowers c1 where λ < 6 and adds 1/4 in cmu."""
    cc = (4 + mueff / dim) / (dim + 4 + 2 * mueff / dim)
    c1 = min(1.0, population / 6) * 2 / ((dim + 1.3) ** 2 + mueff)
    cmu = 2 * (RANK_MU_OFFSET + mueff - 2 + 1 / mueff) / ((dim + 2) ** 2 + mueff)
    return cc, c1, min(1 - c1, cmu)


def _separable_rates(dim: int, population: int, mueff: float) -> tuple[float, float, float]:  # noqa: ARG001
    """Return pycma's cc, c1 and cmu for d degrees of freedom in place of the paper's d (d + 1) / 2."""
    root = math.sqrt(dim)
    cc = (1 + 1 / dim + mueff / dim) / (root + 1 / dim + 2 * mueff / dim)
    c1 = 1 / (dim + 2 * root + mueff / dim)
    cmu = (RANK_MU_OFFSET + mueff + 1 / mueff - 2) / (dim + 4 * root + mueff / 2)
    return cc, c1, min(1 - c1, cmu)


def _final_weights(
    raw: list[float], dim: int, mueff: float, c1: float, cmu: float, *, separable: bool
) -> tuple[float, ...]:
    """Return the weights of (53), their negative part scaled by the least of (50) to (52).

    A diagonal that is updated by an exponential stays positive: there (52) is not needed.
    """
    positive, negative = [w for w in raw if w > 0], [w for w in raw if w <= 0]
    mueff_minus = sum(negative) ** 2 / sum(w**2 for w in negative)
    bounds = [1 + c1 / cmu, 1 + 2 * mueff_minus / (mueff + 2)]
    if not separable:
        bounds.append((1 - c1 - cmu) / (dim * cmu))
    scale = min(bounds) / -sum(negative)
    return (*(w / sum(positive) for w in positive), *(w * scale for w in negative))
