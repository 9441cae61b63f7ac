"""CMA-ES (Hansen, arXiv 1604.00772) over the pycma package, whole generations only."""

import math
import warnings

import numpy as np
import torch
from torch import Tensor

from ggl.base.errors import InputError
from ggl.base.random import numpy_stream
from ggl.optimizers.base import State, Strategy

__all__ = ["CMAES", "SeparableCMAES"]


class CMAES(Strategy):
    """CMA-ES with a full covariance matrix: the field's standard; learns correlations.

    Starts at mean 0. pycma's own stopping rules are not consulted: the budget ends a search.

    Args:
        latent_dim: d.
        budget: objective evaluations planned; not used.
        seed: of the strategy's own random stream; NumPy's global one is left alone.
        sigma0: initial step size, in standard deviations of the prior.
        population: λ, candidates a generation; by default 4 + ⌊3 ln d⌋.
    """

    diagonal = False

    def __init__(
        self,
        latent_dim: int,
        *,
        budget: int,  # noqa: ARG002
        seed: int,
        sigma0: float = 0.5,
        population: int | None = None,
    ) -> None:
        size = 4 + int(3 * math.log(max(latent_dim, 1))) if population is None else population
        if size < 3:
            raise InputError(f"CMA-ES: expected a population of at least 3, found {size}")
        if not (sigma0 > 0 and math.isfinite(sigma0)):
            raise InputError(f"CMA-ES: expected sigma0 above 0, found {sigma0:g}")
        super().__init__(latent_dim, size)
        self.seed, self.sigma0 = seed, sigma0
        self._start()

    def _start(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pycma warns of a missing plotting library on import
            from cma.evolution_strategy import CMAEvolutionStrategy
        random = numpy_stream(self.seed, "cma-es")
        options = {
            "popsize": self.batch_size,
            "CMA_diagonal": self.diagonal,
            "randn": lambda *shape: random.standard_normal(shape),
            "seed": np.nan,
            "verbose": -9,
        }
        self._search = CMAEvolutionStrategy(np.zeros(self.latent_dim), self.sigma0, options)
        self._told: list[Tensor] = []

    def _ask(self) -> Tensor:
        return torch.from_numpy(np.stack(self._search.ask()))

    def _tell(self, z: Tensor, loss: Tensor, gradient: Tensor | None) -> None:  # noqa: ARG002
        self._search.tell(list(z.numpy()), loss.tolist())
        self._told.append(loss)

    def _state(self) -> State:
        """Return the losses told so far: with the seed they are the whole state."""
        return {"losses": torch.stack(self._told) if self._told else torch.empty(0, self.batch_size)}

    def _load(self, state: State) -> None:
        """Replay: the seed gives the same generations, the saved losses the same updates."""
        self._start()
        for loss in state["losses"].double():
            self._tell(self._ask(), loss, None)


class SeparableCMAES(CMAES):
    """CMA-ES with a diagonal covariance matrix (sep-CMA-ES): learns faster, costs less."""

    diagonal = True
