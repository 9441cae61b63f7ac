"""When a CMA-ES search has nothing left to gain: pycma's criteria (arXiv 1604.00772, appendix B.3)."""

import math

import torch
from torch import Tensor

from ggl.optimizers.base import State
from ggl.optimizers.cmaes.distribution import Which, pick, put

__all__ = ["Stopping"]

SMALLEST_STEP = 1e-11
"""`tolx`: the longest axis of σ²C, relative to the initial step size."""

LOSS_RANGE = 1e-11
"""`tolfun`: range of a generation's losses and of the best ones over the window, both."""

BEST_RANGE = 1e-12
"""`tolfunhist`: range of the best losses over the window."""

FLAT_GENERATIONS = 20
"""Generations on end whose best three quarters are equal; pycma's `tolflatfitness` stops after 3."""


class Stopping:
    """The criteria's memory of K searches; a search that stopped stays stopped.

    The window is 10 + ⌈30 d / λ⌉ generations as in the paper; unlike pycma's, it must be full.
    """

    def __init__(self, count: int, dim: int, population: int, device: torch.device) -> None:
        self.window, self.device = 10 + math.ceil(30 * dim / population), device
        self.best = torch.full((count, self.window), torch.inf, dtype=torch.float64, device=device)
        self.flat = torch.zeros(count, dtype=torch.int64, device=device)
        self.stopped = torch.zeros(count, dtype=torch.bool, device=device)

    def stop(self, which: Which, condition: Tensor) -> None:
        """Stop the searches meant where the condition (n,) holds."""
        put(self.stopped, which, pick(self.stopped, which) | condition)

    def observe(self, which: Which, ordered: Tensor, generations: Tensor) -> None:
        """Take a generation's losses in ascending order, (n, λ), and its numbers (n,), from 0."""
        least, spread = ordered[:, 0], ordered[:, -1] - ordered[:, 0]
        best = pick(self.best, which).scatter(1, (generations % self.window)[:, None], least[:, None])
        even = ordered[:, int(0.75 * ordered.shape[1])] == least
        flat = torch.where(even, pick(self.flat, which) + 1, 0)
        put(self.best, which, best)
        put(self.flat, which, flat)
        lowest, highest = best.aminmax(dim=1)
        history = highest - lowest  # infinite or NaN until the window is full
        self.stop(which, (history < BEST_RANGE) | ((history < LOSS_RANGE) & (spread < LOSS_RANGE)))
        self.stop(which, flat > FLAT_GENERATIONS)

    def state(self) -> State:
        """Return copies of the memory."""
        return {"best": self.best.clone(), "flat": self.flat.clone(), "stopped": self.stopped.clone()}

    def load(self, state: State) -> None:
        """Take copies."""
        self.best, self.flat, self.stopped = (
            state[name].to(self.device, copy=True) for name in ("best", "flat", "stopped")
        )
