"""Adam on the latent: the gradient-based contrast to the gradient-free searchers."""

import math

import torch
from torch import Tensor

from ggl.base.errors import InputError
from ggl.base.random import stream
from ggl.optimizers.base import State, Strategy

__all__ = ["Adam"]

BETAS = (0.9, 0.999)
EPSILON = 1e-8
RAMP_UP, RAMP_DOWN = 0.05, 0.25


class Adam(Strategy):
    """Adam (arXiv 1412.6980) from several starts at once: needs gradients through prior and victim.

    The learning rate rises over the first 5 % of the steps and falls by a cosine over the last 25 %, as
    in GGL's code. A generation is one step of every start.

    Args:
        latent_dim: d.
        budget: objective evaluations planned; starts × steps.
        seed: of the stream that draws the starts, standard normal.
        learning_rate: at its height.
        starts: independent descents.
    """

    needs_gradient = True

    def __init__(
        self, latent_dim: int, *, budget: int, seed: int, learning_rate: float = 0.1, starts: int = 4
    ) -> None:
        if not (starts >= 1 and 0 < learning_rate < math.inf):
            raise InputError(
                f"adam: expected starts and learning_rate above 0, found {starts} and {learning_rate:g}"
            )
        super().__init__(latent_dim, starts)
        self.learning_rate, self.steps = learning_rate, max(1, budget // starts)
        self._z = torch.randn(starts, latent_dim, generator=stream(seed, "adam"), dtype=torch.float64)
        self._mean, self._square = torch.zeros_like(self._z), torch.zeros_like(self._z)
        self._step = 0

    def _ask(self) -> Tensor:
        return self._z

    def _tell(self, z: Tensor, loss: Tensor, gradient: Tensor | None) -> None:  # noqa: ARG002
        if gradient is None:
            raise InputError("adam needs the gradient of every loss")
        self._step += 1
        self._mean = BETAS[0] * self._mean + (1 - BETAS[0]) * gradient
        self._square = BETAS[1] * self._square + (1 - BETAS[1]) * gradient.square()
        mean = self._mean / (1 - BETAS[0] ** self._step)
        square = self._square / (1 - BETAS[1] ** self._step)
        self._z = z - self._rate() * mean / (square.sqrt() + EPSILON)

    def _rate(self) -> float:
        done = self._step / self.steps
        rising = min(1.0, done / RAMP_UP)
        falling = min(1.0, max(0.0, 1 - done) / RAMP_DOWN)
        return self.learning_rate * rising * (0.5 - 0.5 * math.cos(math.pi * falling))

    def _state(self) -> State:
        return {
            "z": self._z,
            "mean": self._mean,
            "square": self._square,
            "step": torch.tensor(self._step),
        }

    def _load(self, state: State) -> None:
        self._z, self._mean, self._square = state["z"], state["mean"], state["square"]
        self._step = int(state["step"])
