"""CMA-ES (Hansen, arXiv 1604.00772) over the pycma package: its variants, and restarts."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ggl.base.errors import CheckpointError, InputError
from ggl.base.random import numpy_stream
from ggl.optimizers.base import State, Strategy
from ggl.optimizers.cmaes.constants import default_population
from ggl.optimizers.libraries.restarts import BIPOP, IPOP, Run

__all__ = ["PyCMA"]

FEWEST = {"full": 3, "diagonal": 3, "dd": 3, "vkd": 4}
"""Candidates of the smallest generation that pycma's variants update from."""

NEAREST, FARTHEST = 1e-50, 1e50
"""Bounds of a sound step size and reach; past them pycma's arithmetic over- and underflows."""

Variant: TypeAlias = Literal["full", "diagonal", "dd", "vkd"]


class PyCMA(Strategy):
    """CMA-ES as the pycma package runs it: the reference; take it for VkD, diagonal decoding or restarts.

    Variants of the covariance matrix: "full"; "diagonal", sep-CMA-ES; "dd", a full one decoded by
    separately learned coordinate scales (Akimoto & Hansen, ECJ 2020); "vkd", a diagonal and k
    directions, k adapted (VkD-CMA-ES, Akimoto & Hansen, PPSN 2016).

    Restarts, and with them pycma's own stopping rules, are consulted only where the budget is at least
    `restart_above`: below it, and with "none", one search uses the whole budget. A restart begins at a
    standard normal mean, and its population is at most what the budget still holds. A search stops where
    the budget holds no further restart, or, without restarts, where its steps leave float64's range.

    A resumed search replays the losses told: loading takes the time that pycma itself took.

    Args:
        latent_dim: d.
        budget: objective evaluations planned; with restarts no generation goes past it.
        seed: of the strategy's own random streams; NumPy's global one is left alone.
        variant: of the covariance matrix.
        sigma0: initial step size, in standard deviations of the prior.
        population: λ, candidates a generation, of the first run; by default 4 + ⌊3 ln d⌋;
            at least 3, with vkd 4.
        mean: every coordinate of the first mean; 0 is the prior's mode.
        restarts: "ipop" (Auger & Hansen, CEC 2005) or "bipop" (Hansen, BBOB 2009).
        restart_above: the least budget with which a search restarts.

    Raises:
        InputError: an option out of range.
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        budget: int,
        seed: int,
        variant: Variant = "full",
        sigma0: float = 0.5,
        population: int | None = None,
        mean: float = 0.0,
        restarts: Literal["none", "ipop", "bipop"] = "none",
        restart_above: int = 10_000,
    ) -> None:
        size = default_population(max(latent_dim, 1)) if population is None else population
        _check(variant, size, sigma0, mean, restart_above)
        super().__init__(latent_dim, size)
        self.budget, self.seed, self.variant = budget, seed, variant
        self.first, self.mean = Run(size, sigma0), mean
        self.restarts = restarts if budget >= restart_above else "none"
        self.anytime = self.restarts == "none"
        self._start()

    def _start(self) -> None:
        self._draws = numpy_stream(self.seed, "pycma")
        self._chance = numpy_stream(self.seed, "pycma", "restarts")
        self._schedule = self._new_schedule()
        self._told: list[Tensor] = []
        self.stopped = False
        self._begin(self.first, np.full(self.latent_dim, self.mean))

    def _new_schedule(self) -> IPOP | None:
        size, sigma0 = self.first.population, self.first.sigma0
        if self.restarts == "bipop":
            return BIPOP(size, sigma0, self._chance.random)
        return IPOP(size, sigma0) if self.restarts == "ipop" else None

    def _begin(self, run: Run, mean: np.ndarray) -> None:
        with _quiet():
            from cma.evolution_strategy import CMAEvolutionStrategy

            self._search = CMAEvolutionStrategy(mean, run.sigma0, self._options(run))
            self._candidates: list[np.ndarray] = self._search.ask()
        self.batch_size = len(self._candidates)

    def _options(self, run: Run) -> dict[str, object]:
        """Return pycma's options of a run, its draws taken from our stream."""
        options: dict[str, object] = {
            "popsize": run.population,
            "maxfevals": run.limit,
            "CMA_diagonal": self.variant == "diagonal",
            "CMA_diagonal_decoding": int(self.variant == "dd"),
            "randn": self._randn,
            "seed": np.nan,
            "verbose": -10,  # one less would let a file in the working directory change the options
        }
        if self.variant == "vkd":
            from cma.restricted_gaussian_sampler import GaussVkDSampler

            # pycma does not hand a sampler class the "randn" above: it would draw from the global state
            options["CMA_sampler_options"] = {"randn": self._randn}
            GaussVkDSampler.extend_cma_options(options)
        return options

    def _randn(self, *shape: int) -> np.ndarray:
        return self._draws.standard_normal(shape)

    def _ask(self) -> Tensor:
        return torch.from_numpy(np.stack(self._candidates))

    def _tell(self, z: Tensor, loss: Tensor, gradient: Tensor | None) -> None:  # noqa: ARG002
        """Update pycma and draw the next generation at once: whether it is sound decides on the end."""
        if self.stopped:
            return
        self._told.append(loss)
        with _quiet():
            self._search.tell(self._candidates, loss.tolist())
            over = self._schedule is not None and bool(self._search.stop())
            candidates = self._candidates if over else self._search.ask()
        if over or not _sound(candidates, self._search.mean, self._search.sigma):
            self._restart()
        else:
            self._candidates = candidates

    def _restart(self) -> None:
        room = self.budget - sum(map(len, self._told))
        if self._schedule is None or room < FEWEST[self.variant]:
            self.stopped = True
            return
        run = self._schedule.next(int(self._search.countevals))
        mean = self._chance.standard_normal(self.latent_dim)
        self._begin(replace(run, population=min(run.population, room)), mean)

    def _state(self) -> State:
        """Return the losses told so far, which with the seed are the whole state, and the next generation."""
        return {
            "sizes": torch.tensor([len(loss) for loss in self._told], dtype=torch.int64),
            "losses": torch.cat([torch.empty(0, dtype=torch.float64), *self._told]),
            "next": self._ask(),
        }

    def _load(self, state: State) -> None:
        """Replay: the seed gives the same generations, the saved losses the same updates.

        Raises:
            CheckpointError: the replay led elsewhere: other settings, or another version of pycma or NumPy.
        """
        self._start()
        for loss in state["losses"].double().split(state["sizes"].tolist()):
            if len(loss) != self.batch_size:
                raise self._elsewhere()
            self._tell(self._ask(), loss, None)
        if not torch.equal(self._ask(), state["next"]):
            raise self._elsewhere()

    def _elsewhere(self) -> CheckpointError:
        return CheckpointError(
            "pycma: expected the saved generations again, found others; resume with the same options, "
            "budget, seed and library versions, or start anew"
        )


def _check(variant: Variant, population: int, sigma0: float, mean: float, restart_above: int) -> None:
    if population < FEWEST[variant]:
        raise InputError(f"pycma: expected a population of at least {FEWEST[variant]}, found {population}")
    if not (sigma0 > 0 and math.isfinite(sigma0)):
        raise InputError(f"pycma: expected sigma0 above 0 and finite, found {sigma0:g}")
    if not math.isfinite(mean):
        raise InputError(f"pycma: expected a finite mean, found {mean:g}")
    if restart_above < 0:
        raise InputError(f"pycma: expected restart_above of at least 0, found {restart_above}")


def _sound(candidates: list[np.ndarray], mean: np.ndarray, sigma: float) -> bool:
    """Return whether a generation is finite and apart from its mean, at a step size within float64."""
    reach = np.abs(np.stack(candidates) - mean).max()
    return bool(NEAREST < reach < FARTHEST and NEAREST < sigma < FARTHEST)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings that pycma's modules raise, and floating-point ones of what they call."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.filterwarnings("ignore", module=r"cma(\.|$)")
        yield
