"""Adam on the latent: the gradient-based contrast to the gradient-free searchers."""

import math
from typing import Literal

import torch
from torch import Tensor

from ggl.base.errors import InputError
from ggl.base.random import stream
from ggl.optimizers.base import State, Strategy, check_state

__all__ = ["Adam", "Moments"]

BETAS = (0.9, 0.999)
EPSILON = 1e-8
RAMP_UP, RAMP_DOWN = 0.05, 0.25
EIGHTHS = (3, 5, 7)
"""Of the steps: where the rate falls to a tenth, in the code of Inverting Gradients (arXiv 2003.14053)."""


class Moments:
    """Adam's running moments (arXiv 1412.6980, algorithm 1) of several points at once, (n, d)."""

    def __init__(self, like: Tensor) -> None:
        self.mean, self.square, self.count = torch.zeros_like(like), torch.zeros_like(like), 0

    def step(self, gradient: Tensor) -> Tensor:
        """Take a gradient and return the step against it for a learning rate of 1."""
        self.count += 1
        self.mean = BETAS[0] * self.mean + (1 - BETAS[0]) * gradient
        self.square = BETAS[1] * self.square + (1 - BETAS[1]) * gradient.square()
        mean = self.mean / (1 - BETAS[0] ** self.count)
        square = self.square / (1 - BETAS[1] ** self.count)
        return mean / (square.sqrt() + EPSILON)

    def state(self) -> State:
        """Return the moments and how many steps made them."""
        return {"mean": self.mean, "square": self.square, "step": torch.tensor(self.count)}

    def load(self, state: State) -> None:
        """Continue from `state`."""
        self.mean, self.square, self.count = state["mean"], state["square"], int(state["step"])


class Adam(Strategy):
    """Adam (arXiv 1412.6980) from several starts at once: needs gradients through prior and victim.

    By the schedule "ramp" the learning rate rises over the first 5 % of the steps and falls by a cosine over
    the last 25 %, as in GGL's code; by "steps" it falls to a tenth after 3/8, 5/8 and 7/8 of them, as in
    that of Inverting Gradients (arXiv 2003.14053). A generation is one step of every start.

    Args:
        latent_dim: d.
        budget: objective evaluations planned; starts × steps.
        seed: of the stream that draws the starts, standard normal.
        learning_rate: at its height.
        starts: independent descents.
        signed: Adam is given the gradient's sign in its place, as in Inverting Gradients.
        schedule: of the learning rate.
    """

    needs_gradient = True
    anytime = False

    def __init__(
        self,
        latent_dim: int,
        *,
        budget: int,
        seed: int,
        learning_rate: float = 0.1,
        starts: int = 4,
        signed: bool = False,
        schedule: Literal["ramp", "steps"] = "ramp",
    ) -> None:
        if not (starts >= 1 and 0 < learning_rate < math.inf):
            raise InputError(
                f"adam: expected starts and learning_rate above 0, found {starts} and {learning_rate:g}"
            )
        super().__init__(latent_dim, starts)
        self.learning_rate, self.steps = learning_rate, max(1, budget // starts)
        self.signed, self.schedule = signed, schedule
        self._z = torch.randn(starts, latent_dim, generator=stream(seed, "adam"), dtype=torch.float64)
        self._moments = Moments(self._z)

    def _ask(self) -> Tensor:
        return self._z

    def _tell(self, z: Tensor, loss: Tensor, gradient: Tensor | None) -> None:  # noqa: ARG002
        if gradient is None:
            raise InputError("adam needs the gradient of every loss")
        step = self._moments.step(gradient.sign() if self.signed else gradient)
        self._z = z - self._rate() * step

    def _rate(self) -> float:
        return self._stepped() if self.schedule == "steps" else self._ramped()

    def _stepped(self) -> float:
        taken = self._moments.count - 1
        return self.learning_rate * math.pow(0.1, sum(8 * taken >= part * self.steps for part in EIGHTHS))

    def _ramped(self) -> float:
        done = self._moments.count / self.steps
        rising = min(1.0, done / RAMP_UP)
        falling = min(1.0, max(0.0, 1 - done) / RAMP_DOWN)
        return self.learning_rate * rising * (0.5 - 0.5 * math.cos(math.pi * falling))

    def _state(self) -> State:
        return {"z": self._z, **self._moments.state()}

    def _load(self, state: State) -> None:
        check_state(state, self._state())
        self._z = state["z"]
        self._moments.load(state)
