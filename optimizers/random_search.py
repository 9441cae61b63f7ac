"""Random search: what a strategy must beat."""

import torch
from torch import Tensor

from ggl.base.random import stream
from ggl.optimizers.base import State, Strategy, check_state

__all__ = ["RandomSearch"]


class RandomSearch(Strategy):
    """Draws independent standard normal latents: the baseline that every searcher must beat.

    Args:
        latent_dim: d.
        budget: objective evaluations planned; not used.
        seed: of the strategy's own random stream.
        population: candidates a generation.
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        budget: int,  # noqa: ARG002
        seed: int,
        population: int = 16,
    ) -> None:
        super().__init__(latent_dim, population)
        self._random = stream(seed, "random-search")

    def _ask(self) -> Tensor:
        return torch.randn(self.batch_size, self.latent_dim, generator=self._random, dtype=torch.float64)

    def _tell(self, z: Tensor, loss: Tensor, gradient: Tensor | None) -> None: ...

    def _state(self) -> State:
        return {"random": self._random.get_state()}

    def _load(self, state: State) -> None:
        check_state(state, self._state())
        self._random.set_state(state["random"])
