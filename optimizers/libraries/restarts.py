"""When a search restarts, what the next run is: its population, its step size, its share of the budget."""

import math
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["BIPOP", "IPOP", "Run"]


@dataclass(frozen=True)
class Run:
    """One run of a search that restarts.

    Attributes:
        population: λ, candidates a generation.
        sigma0: initial step size.
        limit: evaluations after which the run is over, whatever it has found.
    """

    population: int
    sigma0: float
    limit: float = math.inf


class IPOP:
    """Doubles the population at every restart (Auger & Hansen, CEC 2005).

    Args:
        population: λ of the first run.
        sigma0: step size of the first run.
    """

    def __init__(self, population: int, sigma0: float) -> None:
        self.first = Run(population, sigma0)
        self._largest = population

    def next(self, spent: int) -> Run:  # noqa: ARG002
        """Return the run that follows one of `spent` evaluations."""
        self._largest *= 2
        return Run(self._largest, self.first.sigma0)


class BIPOP(IPOP):
    """Restarts with doubled or with small populations, whichever has spent less (Hansen, BBOB 2009).

    The first run counts as a small one, and a small run ends at half of what the large ones have spent,
    both as in pycma, the author's own code. λ_large is the latest large population.

    Args:
        population: λ0 of the first run.
        sigma0: σ0 of the first run and of every large one.
        uniform: draws U from [0, 1); two draws a small run, the population's first.
    """

    def __init__(self, population: int, sigma0: float, uniform: Callable[[], float]) -> None:
        super().__init__(population, sigma0)
        self.spent_small = self.spent_large = 0
        self._uniform, self._ran_large = uniform, False

    def next(self, spent: int) -> Run:
        """Charge `spent` evaluations to the regime that ran, and return a run of the one that has fewer."""
        if self._ran_large:
            self.spent_large += spent
        else:
            self.spent_small += spent
        self._ran_large = self.spent_large <= self.spent_small
        return super().next(spent) if self._ran_large else self._small()

    def _small(self) -> Run:
        """λ_s = ⌊λ0 (½ λ_large / λ0)^(U²)⌋ and σ_s = σ0 · 10^(−2U), each with a U of its own."""
        ratio = self._largest / (2 * self.first.population)
        size = int(self.first.population * ratio ** (self._uniform() ** 2))
        return Run(size, self.first.sigma0 * 10 ** (-2 * self._uniform()), self.spent_large / 2)
