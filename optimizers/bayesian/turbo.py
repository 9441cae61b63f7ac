"""TuRBO (Eriksson et al. 2019, arXiv 1910.01739): local Gaussian processes in trust regions, over BoTorch."""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from ggl.base.devices import find_device
from ggl.base.errors import InputError
from ggl.base.random import stream, stream_seed
from ggl.optimizers.base import State, Strategy
from ggl.optimizers.bayesian.design import best_rows, check_options, design_size, normal_design
from ggl.optimizers.bayesian.trust_region import TrustRegion, box, perturb

__all__ = ["TuRBO"]


class TuRBO(Strategy):
    """TuRBO: Bayesian optimization in trust regions that grow and shrink; for 500 to 5,000 evaluations.

    Written from the paper. Each region models its own points, all told since it was started; a region
    that collapsed starts anew with a fresh design. A generation is a design's part of one region, or a
    batch that Thompson sampling spreads over all regions.

    Args:
        latent_dim: d.
        budget: objective evaluations planned; above 5,000 refused unless forced.
        seed: of the strategy's own random streams.
        population: q, candidates a generation.
        regions: m; above 1 it is TuRBO-m.
        initial: points of a region's initial design, rounded up to whole generations; by default
            min(2 d, 100).
        bound: half the side of the box searched, in standard deviations of the prior.
        acquisition: "thompson", the paper's, or "logei", which needs a single region.
        candidates: points of a region that Thompson sampling chooses from, at most 100 d; the
            paper has 5,000, whose posterior's Cholesky factor costs 15 times as much.
        cap: a region's model sees at most so many of its points, the best ones.
        force: take a budget above 5,000.
        device: of the models; in an attack by default the victim's.

    Attributes:
        failed_fits: fits that failed, each replaced by the default hyperparameters.
    """

    def __init__(
        self,
        latent_dim: int,
        *,
        budget: int,
        seed: int,
        population: int = 20,
        regions: int = 1,
        initial: int | None = None,
        bound: float = 2.0,
        acquisition: Literal["thompson", "logei"] = "thompson",
        candidates: int = 2000,
        cap: int = 500,
        force: bool = False,
        device: str = "cpu",
    ) -> None:
        check_options("turbo", budget=budget, bound=bound, initial=initial, cap=cap, force=force)
        if regions < 1 or (regions > 1 and acquisition == "logei"):
            raise InputError(
                f"turbo: expected regions of at least 1, and 1 for logei, found {regions}: "
                "Thompson sampling is what shares a batch among regions"
            )
        super().__init__(latent_dim, population)
        self.candidates = min(100 * latent_dim, candidates)
        if self.candidates < 2 * population:
            raise InputError(
                f"turbo: expected at least {2 * population} candidates, found {self.candidates}: "
                "raise candidates or lower the population"
            )
        design = min(2 * latent_dim, 100) if initial is None else initial
        self.initial: int = design_size("turbo", design, population, budget, regions)
        self.seed, self.bound, self.cap, self.device = seed, bound, cap, find_device(device)
        self.acquisition, self.failed_fits = acquisition, 0
        self.regions = [TrustRegion(latent_dim) for _ in range(regions)]
        self.starts = [0] * regions
        self._hyperparameters = [torch.empty(0, dtype=torch.float64) for _ in range(regions)]
        self._z = torch.empty(0, latent_dim, dtype=torch.float64)
        self._loss = torch.empty(0, dtype=torch.float64)
        self._owner = torch.empty(0, dtype=torch.int64)
        self._asked_of = torch.empty(0, dtype=torch.int64)

    def _ask(self) -> Tensor:
        told = [int((self._owner == r).sum()) for r in range(len(self.regions))]
        young = [r for r, count in enumerate(told) if count < self.initial]
        if young:
            return self._design(young[0], told[young[0]])
        return self._thompson() if self.acquisition == "thompson" else self._log_ei()

    def _design(self, region: int, done: int) -> Tensor:
        seed = stream_seed(self.seed, "turbo", "design", region, self.starts[region])
        self._asked_of = torch.full((self.batch_size,), region)
        design = normal_design(self.initial, self.latent_dim, self.bound, seed)
        return design[done : done + self.batch_size]

    def _thompson(self) -> Tensor:
        """Return, draw by draw, the candidate of lowest sampled loss over all regions, none twice."""
        from ggl.optimizers.bayesian.surrogate import isolated, thompson

        points, losses = [], []
        for region in range(len(self.regions)):
            with isolated(self._stream_seed("model", region), self.device):
                surrogate, _, x = self._model(region)
                random = stream(self.seed, "turbo", "draws", region, len(self._z))
                normal = torch.randn(self.batch_size, len(x), generator=random, dtype=torch.float64)
                scores = thompson(surrogate.model, x, normal)
            points.append(x.cpu())
            losses.append((surrogate.center - surrogate.scale * scores).cpu())
        chosen = _lowest_of_each(torch.cat(losses, 1))
        self._asked_of = chosen // self.candidates
        return (torch.cat(points)[chosen] * 2 - 1) * self.bound

    def _log_ei(self) -> Tensor:
        from ggl.optimizers.bayesian.surrogate import greedy_log_ei, isolated

        seed = self._stream_seed("model", 0)
        with isolated(seed, self.device):
            surrogate, corners, x = self._model(0)
            chosen = greedy_log_ei(surrogate, x, corners, self.batch_size, seed)
        self._asked_of = torch.zeros(self.batch_size, dtype=torch.int64)
        return (chosen.cpu() * 2 - 1) * self.bound

    def _model(self, region: int) -> tuple[Any, Tensor, Tensor]:
        """Return a region's surrogate, its corners and its candidates, in the unit box."""
        from ggl.optimizers.bayesian.surrogate import fit, hyperparameters, length_scales

        own = self._owner == region
        rows = best_rows(self._loss[own], self.cap)
        z, loss = self._z[own][rows], self._loss[own][rows]
        x = (z / (2 * self.bound) + 0.5).to(self.device)
        surrogate = fit(x, loss[:, None].to(self.device), "local", self._hyperparameters[region])
        self._hyperparameters[region] = hyperparameters(surrogate.model)
        self.failed_fits += not surrogate.held
        center = x[int(loss.argmin())]
        corners = box(center, self.regions[region].length, length_scales(surrogate.model))
        seed = self._stream_seed("candidates", region)
        return surrogate, corners, perturb(center, corners, self.candidates, seed)

    def _stream_seed(self, name: str, region: int) -> int:
        return stream_seed(self.seed, "turbo", name, region, len(self._z))

    def _tell(self, z: Tensor, loss: Tensor, gradient: Tensor | None) -> None:  # noqa: ARG002
        for region in self._asked_of.unique().tolist():
            self._advance(region, loss[self._asked_of == region])
        self._z, self._loss = torch.cat([self._z, z]), torch.cat([self._loss, loss])
        self._owner = torch.cat([self._owner, self._asked_of])
        for region, trust in enumerate(self.regions):
            if trust.collapsed:
                self._restart(region)

    def _advance(self, region: int, loss: Tensor) -> None:
        """Let a region's length follow a batch; a design's generations leave it alone."""
        before = self._loss[self._owner == region]
        if len(before) >= self.initial:
            self.regions[region].update(bool(loss.min() < before.min()), len(loss))

    def _restart(self, region: int) -> None:
        """Start a region anew: its points belong to no region from now on."""
        self.regions[region] = TrustRegion(self.latent_dim)
        self.starts[region] += 1
        self._hyperparameters[region] = torch.empty(0, dtype=torch.float64)
        self._owner = torch.where(self._owner == region, -1, self._owner)

    def _state(self) -> State:
        regions = [[t.length, t.successes, t.failures] for t in self.regions]
        return {
            "z": self._z.clone(),
            "loss": self._loss.clone(),
            "owner": self._owner.clone(),
            "regions": torch.tensor(regions, dtype=torch.float64),
            "starts": torch.tensor(self.starts),
            "failed_fits": torch.tensor(self.failed_fits),
            **{f"hyperparameters.{r}": h.clone() for r, h in enumerate(self._hyperparameters)},
        }

    def _load(self, state: State) -> None:
        self._z, self._loss, self._owner = (state[name].clone() for name in ("z", "loss", "owner"))
        self.regions = [
            TrustRegion(self.latent_dim, length, int(successes), int(failures))
            for length, successes, failures in state["regions"].tolist()
        ]
        self.starts, self.failed_fits = state["starts"].tolist(), int(state["failed_fits"])
        self._hyperparameters = [state[f"hyperparameters.{r}"].clone() for r in range(len(self.regions))]


def _lowest_of_each(losses: Tensor) -> Tensor:
    """Return for each row (a draw) the column of its lowest value among those not yet taken."""
    losses = losses.clone()
    chosen = []
    for row in losses:
        column = int(row.argmin())
        losses[:, column] = math.inf
        chosen.append(column)
    return torch.tensor(chosen)
