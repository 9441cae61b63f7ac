"""Nevergrad's optimizers, asked and told whole generations."""

import difflib
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ggl.base.errors import InputError, UnknownNameError
from ggl.optimizers.cmaes.constants import default_population
from ggl.optimizers.libraries.nevergrad_search import NevergradSearch, load_library

__all__ = ["Nevergrad"]


class Nevergrad(NevergradSearch):
    """Any optimizer of Nevergrad's registry, asked and told whole generations: for comparisons.

    Starts at 0. Nevergrad reports little: a generation that pycma refuses, an error or a warning is an
    `InputError` here, and a search whose CMA or SciPy optimizer has ended counts as `stopped`, where
    Nevergrad would start anew at 0, or draw random points. A resumed search replays all generations.

    Nevergrad's "CMA" chooses by dimension, budget and generation: full matrix with σ = 0.47 · sigma
    (CMAstd) in general, and from 21 candidates a generation on, by default from d = 290, a diagonal and
    elitist one (CMApara); "CMAstd" keeps the full matrix.

    Args:
        latent_dim: d.
        budget: objective evaluations planned; many optimizers choose their method and schedule by it.
        seed: of the strategy's own random streams; NumPy's global one is left alone.
        optimizer: a name of `nevergrad.optimizers.registry`.
        population: candidates a generation, Nevergrad's num_workers; by default 4 + ⌊3 ln d⌋, or what
            Nevergrad's CMA makes of that, or 1 where an optimizer takes one candidate at a time.
        sigma: Nevergrad's scale of a mutation; its CMA starts with a share of it.

    Raises:
        UnknownNameError: a name that is not in the registry.
        InputError: an optimizer that cannot search so, or options out of range.
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        budget: int,
        seed: int,
        optimizer: str = "CMA",
        population: int | None = None,
        sigma: float = 1.0,
    ) -> None:
        if not (sigma > 0 and math.isfinite(sigma)):
            raise InputError(f"nevergrad: expected sigma above 0, found {sigma:g}")
        self.optimizer, self.population, self.sigma = optimizer, population, sigma
        size = default_population(max(latent_dim, 1)) if population is None else population
        super().__init__(latent_dim, size, budget=budget, seed=seed)
        self._planned = size
        self._start()

    def _name(self) -> str:
        return self.optimizer

    def _build(self, library: Any) -> Any:
        factory = _registered(library, self.optimizer)
        if factory.no_parallelization:
            if self.population not in (None, 1):
                raise self._unusable("that it takes one candidate at a time")
            self._planned = 1
        sizes = []
        # An elitist CMA's population is one more than its workers.
        for workers in (self._planned, max(1, self._planned - 1)):
            parametrization = self._parametrization(library, np.zeros(self.latent_dim))
            parametrization.set_mutation(sigma=self.sigma)
            found = factory(parametrization=parametrization, budget=self.budget, num_workers=workers)
            sizes.append(self._cma_population(found) or self._planned)
            if self.population in (None, sizes[-1]):
                self.batch_size = sizes[-1]
                return found
        raise InputError(
            f"nevergrad: expected a population that {self.optimizer} takes, found {self.population}, "
            f"of which it makes {sizes[0]}; give population={sizes[0]}, or leave it out"
        )

    def _cma_population(self, optimizer: Any) -> int | None:
        """Return the population of the CMA that an optimizer comes down to, if it does."""
        self._cma = _core(optimizer)
        if self._cma is not None and self.latent_dim == 1:
            # There Nevergrad sets its shared configuration to another library, for later searches too.
            raise InputError(
                f"nevergrad: expected at least 2 latent dimensions for {self.optimizer}, found 1"
            )
        return None if self._cma is None else int(self._cma._popsize)

    def _before_tell(self) -> None:
        for part in _parts(self._optimizer):
            search = getattr(part, "_es", None)
            if search is not None and "tell" not in vars(search):
                search.tell = self._heard(search.tell)

    def _heard(self, tell: Callable[..., None]) -> Callable[..., None]:
        """Return a `tell` whose errors are not of the kinds that Nevergrad passes over."""

        def heard(*arguments: Any) -> None:
            try:
                tell(*arguments)
            except (RuntimeError, AssertionError) as error:
                raise self._unusable(f"that pycma refused a generation ({error})") from error

        return heard

    def _after_tell(self) -> None:
        if self._cma is not None and self._cma._es.stop():
            self.stopped = True


def _registered(library: Any, name: str) -> Any:
    known = sorted(library.optimizers.registry)
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, n=5, cutoff=0.0))
        raise UnknownNameError(
            f"no optimizer of Nevergrad's {len(known)} is named {name!r}; the nearest: {near}"
        )
    return library.optimizers.registry[name]


def _core(optimizer: Any) -> Any:
    """Return the one CMA that an optimizer is or wraps, or None."""
    inner = getattr(optimizer, "optim", None) or getattr(optimizer, "_optimizer", None)
    if inner is not None:
        return _core(inner)
    return optimizer if hasattr(optimizer, "_popsize") and hasattr(optimizer, "_es") else None


def _parts(optimizer: Any) -> Iterator[Any]:
    """Yield an optimizer and all that it holds."""
    yield optimizer
    for held in list(vars(optimizer).values()):
        for part in held if isinstance(held, list) else [held]:
            if isinstance(part, load_library().optimizers.base.Optimizer):
                yield from _parts(part)
