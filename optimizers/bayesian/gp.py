"""Bayesian optimization with one global Gaussian process, over BoTorch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ggl.base.devices import find_device
from ggl.base.errors import InputError
from ggl.base.random import stream, stream_seed
from ggl.optimizers.base import State, Strategy
from ggl.optimizers.bayesian.composite import principal_residuals, squared_residual
from ggl.optimizers.bayesian.design import best_rows, check_options, design_size, normal_design

__all__ = [
    "GaussianProcess",
]

NEIGHBORS, STEP = 5, 0.05
"""Points that LogEI's starts surround, and how far: a fraction of the box (arXiv 2402.02229 stays local)."""
GROWTH = 1.1
"""Hyperparameters are fitted again once there are so many times the evaluations of the last fit."""


class GaussianProcess(Strategy):
    """Bayesian optimization (GP with LogEI): for a few hundred costly evaluations; slow past 2,000.

    BoTorch's `SingleTaskGP` with its default priors, length scales growing with √d (Hvarfner et al. 2024,
    arXiv 2402.02229), on the box [-bound, bound]^d; a batch maximizes LogEI greedily (Ament et al. 2023,
    arXiv 2310.20708). The initial design is a Sobol sequence through the truncated normal's quantile.
    With `composite` it models the principal residuals, and knows that the loss is their sum of squares
    (Astudillo & Frazier 2019, arXiv 1906.01537).

    Args:
        latent_dim: d.
        budget: objective evaluations planned; above 5,000 refused unless forced.
        seed: of the strategy's own random streams.
        population: q, candidates a generation.
        initial: points of the initial design, rounded up to whole generations; by default min(2 d, 50).
        bound: half the side of the box searched, in standard deviations of the prior.
        cap: the model sees at most so many points, the best ones.
        force: take a budget above 5,000.
        composite: model residuals; a distance that is no sum of squares is refused then.
        residuals: principal residuals that are modeled.
        device: of the model; in an attack by default the victim's.

    Raises:
        InputError: an option out of range.

    Attributes:
        failed_fits: fits that failed, each replaced by the default hyperparameters.
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        budget: int,
        seed: int,
        population: int = 10,
        initial: int | None = None,
        bound: float = 2.0,
        cap: int = 1000,
        force: bool = False,
        composite: bool = False,
        residuals: int = 16,
        device: str = "cpu",
    ) -> None:
        if residuals < 1:
            raise InputError(f"bo: expected residuals of at least 1, found {residuals}")
        check_options("bo", budget=budget, bound=bound, initial=initial, cap=cap, force=force)
        super().__init__(latent_dim, population)
        design = min(2 * latent_dim, 50) if initial is None else initial
        self.initial: int = design_size("bo", design, population, budget)
        self.seed, self.bound, self.cap, self.device = seed, bound, cap, find_device(device)
        self.needs_residuals, self.modeled, self.failed_fits = composite, residuals, 0
        self._values = torch.empty(0, 0)
        self._z = torch.empty(0, latent_dim, dtype=torch.float64)
        self._loss = torch.empty(0, dtype=torch.float64)
        self._hyperparameters = torch.empty(0, dtype=torch.float64)
        self._fitted = 0

    def _ask(self) -> Tensor:
        done = len(self._z)
        if done < self.initial:
            design = normal_design(self.initial, self.latent_dim, self.bound, self._stream_seed("design"))
            return design[done : done + self.batch_size]
        return self._maximize_acquisition()

    def _maximize_acquisition(self) -> Tensor:
        from ggl.optimizers.bayesian.surrogate import greedy_log_ei, isolated

        seed = self._stream_seed(len(self._z))
        rows = best_rows(self._loss, self.cap)
        x, loss = self._z[rows] / (2 * self.bound) + 0.5, self._loss[rows]
        outputs = loss[:, None]
        if self.needs_residuals:
            outputs = principal_residuals(self._values[rows].to(self.device, torch.float64), self.modeled)
        box = torch.tensor([[0.0], [1.0]], dtype=torch.float64).expand(2, self.latent_dim)
        with isolated(seed, self.device):
            surrogate = self._fit(x.to(self.device), outputs.to(self.device))
            starts = self._starts(x[loss.argsort(stable=True)[:NEIGHBORS]]).to(self.device)
            worth = self._worth(surrogate) if self.needs_residuals else None
            chosen = greedy_log_ei(surrogate, starts, box.to(self.device), self.batch_size, seed, worth)
        return (chosen.cpu() * 2 - 1) * self.bound

    @staticmethod
    def _worth(surrogate: Any) -> Callable[[Tensor], Tensor]:
        """Return what a composite search improves, of scores."""
        return lambda scores: -squared_residual(surrogate.center - surrogate.scale * scores)

    def _fit(self, x: Tensor, outputs: Tensor) -> Any:
        """Return the surrogate of the evaluations, its hyperparameters fitted again where that is due."""
        from ggl.optimizers.bayesian.surrogate import fit, hyperparameters

        if len(self._z) < GROWTH * self._fitted:
            return fit(x, outputs, "global", self._hyperparameters, steps=0)
        surrogate = fit(x, outputs, "global", self._hyperparameters)
        self._hyperparameters = hyperparameters(surrogate.model)
        self._fitted, self.failed_fits = len(self._z), self.failed_fits + (not surrogate.held)
        return surrogate

    def _starts(self, best: Tensor) -> Tensor:
        """Return points around the best ones, and as many from the prior, all in the unit box."""
        random = stream(self.seed, "bo", "starts", len(self._z))
        count = max(128, 4 * self.batch_size)
        draws = torch.randn(2, count, self.latent_dim, generator=random, dtype=torch.float64)
        near = best[torch.arange(count) % len(best)] + STEP * draws[0]
        return torch.cat([near, draws[1] / (2 * self.bound) + 0.5]).clamp(0, 1)

    def _stream_seed(self, name: object) -> int:
        return stream_seed(self.seed, "bo", name)

    def _tell(self, z: Tensor, loss: Tensor, gradient: Tensor | None) -> None:  # noqa: ARG002
        self._z, self._loss = torch.cat([self._z, z]), torch.cat([self._loss, loss])
        if self.needs_residuals:
            values, target = self.residuals.compared()
            new = (values - target).to(torch.float32)
            self._values = torch.cat([self._values.view(-1, new.shape[1]), new])

    def _state(self) -> State:
        return {
            "z": self._z.clone(),
            "loss": self._loss.clone(),
            "values": self._values.clone(),
            "hyperparameters": self._hyperparameters.clone(),
            "counters": torch.tensor([self._fitted, self.failed_fits]),
        }

    def _load(self, state: State) -> None:
        self._z, self._loss, self._values = (state[name].clone() for name in ("z", "loss", "values"))
        self._hyperparameters = state["hyperparameters"].clone()
        self._fitted, self.failed_fits = (int(n) for n in state["counters"])
