"""The CMA-ES loop of GGL as it was published, which tells what it did not ask in time."""

from typing import Any

import numpy as np
from torch import Tensor

from ggl.optimizers.libraries.nevergrad_search import NevergradSearch

__all__ = ["NevergradCMAGGL"]


class NevergradCMAGGL(NevergradSearch):
    """GGL's published CMA-ES loop with its defect: loses two evaluations of three; for comparison only.

    The loop of GGL's code (arXiv 2203.15696) asks Nevergrad's "CMA" for 50 candidates before it tells
    any, with num_workers at 1: CMA's own population is then 4 + ⌊3 ln d⌋, 18 at d = 128, and pycma takes
    one population after each that it drew. Nevergrad passes over the refusals, and when pycma stops, it
    starts anew without a word; both are left as they are. `nevergrad` and `cma-es` lose nothing.

    Starts at uniform [0, 1), with today's Nevergrad's σ = 0.47. A resumed search replays all generations.

    Args:
        latent_dim: d.
        budget: objective evaluations; Nevergrad is told the rounds, as there.
        seed: of the strategy's own random streams.
        population: candidates a round.
        tanh: whether the latents are the candidates' tanh, as GGL's on ImageNet are, or the candidates.
    """

    def __init__(
        self, latent_dim: int, *, budget: int, seed: int, population: int = 50, tanh: bool = True
    ) -> None:
        super().__init__(latent_dim, population, budget=budget, seed=seed)
        self.tanh = tanh
        self._start()

    def _name(self) -> str:
        return "CMA"

    def _build(self, library: Any) -> Any:
        start = np.random.RandomState(self._seed_of("start")).random_sample(self.latent_dim)
        rounds = max(1, self.budget // self.batch_size)
        return library.optimizers.registry["CMA"](self._parametrization(library, start), budget=rounds)

    def _place(self, x: Tensor) -> Tensor:
        return x.tanh() if self.tanh else x
