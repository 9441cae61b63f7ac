"""CMA-ES searches that advance as one set of tensors: Hansen (arXiv 1604.00772), as pycma 4.5 does it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ggl.base.errors import InputError
from ggl.base.random import stream
from ggl.optimizers.base import State, check_state, finite_losses
from ggl.optimizers.cmaes.constants import constants, default_population
from ggl.optimizers.cmaes.distribution import (
    DiagonalCovariance,
    Distribution,
    FullCovariance,
    Selection,
    Which,
    pick,
    put,
)
from ggl.optimizers.cmaes.stopping import SMALLEST_STEP, Stopping
from ggl.optimizers.group import Group, Rows
from ggl.optimizers.residuals import Residuals

__all__ = ["BatchedCMAES"]

MAX_LOG_STEP = 1.0
"""pycma's bound on a generation's change of ln σ."""


@dataclass(frozen=True)
class _Asked:
    which: Which
    z: Tensor
    y: Tensor


class BatchedCMAES(Group):
    """K searches with active CMA-ES, mean 0 at the start, one a seed.

    Equals pycma given the same samples, but for what pycma does beside the paper: mirrored samples where
    λ < 6, two-point step-size adaptation where d ≥ 300 (here it is cumulative throughout), and rescaling
    where σ exceeds 10⁹ σ0. On the CPU each search is, bit for bit, what it is in a group of its own.

    Args:
        latent_dim: d.
        seeds: one a search, of its own random stream.
        device: where the tensors live; the draws are the CPU's, so that a seed means the same on all.
        sigma0: initial step size, in standard deviations of the prior.
        population: λ, candidates a generation; by default 4 + ⌊3 ln d⌋.
        separable: diagonal covariance.

    Raises:
        InputError: no seed, a dimension below 1, a population below 3 or a sigma0 that is not above 0.
    """

    needs_gradient = False

    def __init__(
        self,
        latent_dim: int,
        *,
        seeds: Sequence[int],
        device: torch.device,
        sigma0: float = 0.5,
        population: int | None = None,
        separable: bool = False,
    ) -> None:
        if latent_dim < 1:
            raise InputError(f"expected a latent dimension of at least 1, found {latent_dim}")
        if not seeds:
            raise InputError("CMA-ES: expected at least one seed, found none")
        if not (sigma0 > 0 and math.isfinite(sigma0)):
            raise InputError(f"CMA-ES: expected sigma0 above 0, found {sigma0:g}")
        self.latent_dim, self.device, self.sigma0 = latent_dim, device, sigma0
        self.population = default_population(latent_dim) if population is None else population
        self.constants = constants(latent_dim, self.population, separable=separable)
        self._weights = self.constants.by_rank(device)
        self._random = [stream(seed, "cma-es") for seed in seeds]
        count = len(seeds)
        self.mean = torch.zeros(count, latent_dim, dtype=torch.float64, device=device)
        self.sigma = torch.full((count,), sigma0, dtype=torch.float64, device=device)
        self.path_c, self.path_sigma = torch.zeros_like(self.mean), torch.zeros_like(self.mean)
        self.generations = torch.zeros(count, dtype=torch.int64, device=device)
        covariance = DiagonalCovariance if separable else FullCovariance
        self.distribution: Distribution = covariance(count, self.constants, device)
        self.stopping = Stopping(count, latent_dim, self.population, device)
        self._asked: _Asked | None = None

    def __len__(self) -> int:
        return len(self._random)

    def sizes(self) -> list[int]:
        """Return λ, 0 where a search has stopped."""
        return [0 if stopped else self.population for stopped in self.stopping.stopped.tolist()]

    def ask(self, chosen: Sequence[int]) -> list[Tensor]:
        """Return (λ, d) for each chosen search: m + σ y (40)."""
        if self._asked is not None:
            raise InputError("asked twice: tell the losses of the last generation first")
        which = None
        if list(chosen) != list(range(len(self))):
            which = torch.tensor(chosen).to(self.device, non_blocking=True)
        self.stopping.stop(which, self.distribution.prepare(which, self.generations))
        z = self._draw(chosen)
        y = self.distribution.steps(which, z)
        self._asked = _Asked(which, z, y)
        sigma, mean = pick(self.sigma, which)[:, None, None], pick(self.mean, which)[:, None]
        return list(torch.addcmul(mean, sigma, y).unbind())

    def _draw(self, chosen: Sequence[int]) -> Tensor:
        """Return standard normals, drawn in float32, which is faster: the images are decoded in it too."""
        z = torch.empty(len(chosen), self.population, self.latent_dim)
        for row, k in zip(z, chosen, strict=True):
            row.normal_(generator=self._random[k])
        return z.to(self.device, torch.float64, non_blocking=True)

    def tell(
        self,
        z: Rows,
        losses: Rows,
        gradients: Rows | None = None,  # noqa: ARG002
        residuals: Sequence[Residuals] | None = None,  # noqa: ARG002
    ) -> None:
        """Update every search that was asked.

        Raises:
            InputError: nothing was asked, or rows of another shape.
        """
        if self._asked is None:
            raise InputError("told before asked: ask for a generation first")
        asked = self._asked
        loss = self._losses(z, losses, len(asked.z))
        order = loss.argsort(dim=1, stable=True)
        weights = torch.empty_like(loss).scatter_(1, order, self._weights.expand_as(loss))
        self._update(asked, weights)
        generations = pick(self.generations, asked.which)
        self.stopping.observe(asked.which, loss.gather(1, order), generations)
        put(self.generations, asked.which, generations + 1)
        extent = pick(self.sigma, asked.which) * self.distribution.largest_axis(asked.which)
        self.stopping.stop(asked.which, extent < SMALLEST_STEP * self.sigma0)
        self._asked = None

    def _losses(self, z: Rows, losses: Rows, count: int) -> Tensor:
        """Return finite losses (n, λ)."""
        shapes = [(tuple(rows.shape), tuple(loss.shape)) for rows, loss in zip(z, losses, strict=False)]
        expected = ((self.population, self.latent_dim), (self.population,))
        if not len(z) == len(losses) == count or any(shape != expected for shape in shapes):
            raise InputError(
                f"expected {count} generations of {expected[0]} with their losses, found {shapes}: "
                "return what was asked"
            )
        told = torch.stack(list(losses)).detach().to(self.device, torch.float64, non_blocking=True)
        return finite_losses(told)

    def _update(self, asked: _Asked, weights: Tensor) -> None:
        """Move the means (42), then adapt step sizes (43, 44) and covariances (45, 47)."""
        c, which = self.constants, asked.which
        direction = torch.bmm(weights.clamp_min(0)[:, None], asked.z)[:, 0]
        step, whitened = self.distribution.recombine(which, direction)
        sigma, path_sigma = pick(self.sigma, which), pick(self.path_sigma, which)
        path_sigma = (1 - c.cs) * path_sigma + math.sqrt(c.cs * (2 - c.cs) * c.mueff) * whitened
        squared = path_sigma.square().sum(1)
        stalled = self._stalled(which, squared)
        advance = math.sqrt(c.cc * (2 - c.cc) * c.mueff) * self._path_step(step, direction)
        path = (1 - c.cc) * pick(self.path_c, which) + advance.masked_fill(stalled[:, None], 0)
        self.distribution.update(which, Selection(asked.z, asked.y, weights, path, stalled))
        change = (c.cs / c.damping) * (squared.sqrt() / c.mean_length - 1)
        mean = pick(self.mean, which) + sigma[:, None] * step
        put(self.path_sigma, which, path_sigma)
        put(self.path_c, which, path)
        self._move(which, mean, sigma * change.clamp(-MAX_LOG_STEP, MAX_LOG_STEP).exp())

    def _path_step(self, step: Tensor, direction: Tensor) -> Tensor:
        """Return the mean's step as p_c takes it: pycma's separable path is in whitened coordinates."""
        return direction if isinstance(self.distribution, DiagonalCovariance) else step

    def _stalled(self, which: Which, squared: Tensor) -> Tensor:
        """Return where h_σ is 0; pycma bounds ‖p_σ‖² / d by 2 + 4 / (d + 1), not ‖p_σ‖ as the paper."""
        c = self.constants
        count = pick(self.generations, which).double() + 1
        settled = 1 - (1 - c.cs) ** (2 * count)
        return squared / settled / c.dim >= 2 + 4 / (c.dim + 1)

    def _move(self, which: Which, mean: Tensor, sigma: Tensor) -> None:
        """Take the new means and step sizes where they are finite; elsewhere the search has ended."""
        fine = sigma.isfinite() & (sigma > 0) & mean.isfinite().all(1)
        put(self.mean, which, torch.where(fine[:, None], mean, pick(self.mean, which)))
        put(self.sigma, which, torch.where(fine, sigma, pick(self.sigma, which)))
        self.stopping.stop(which, ~fine)

    def state_dict(self) -> State:
        """Return everything that resumed searches need, random states included.

        Raises:
            InputError: a generation was asked and not yet told.
        """
        if self._asked is not None:
            raise InputError("a strategy is saved between generations: tell the last one first")
        return self._tensors()

    def _tensors(self) -> State:
        own = {
            "mean": self.mean.clone(),
            "sigma": self.sigma.clone(),
            "path_c": self.path_c.clone(),
            "path_sigma": self.path_sigma.clone(),
            "generations": self.generations.clone(),
            "random": torch.stack([random.get_state() for random in self._random]),
        }
        return own | self.distribution.state() | self.stopping.state()

    def load_state_dict(self, state: State) -> None:
        """Continue searches of the same settings from `state_dict`, bit for bit.

        Raises:
            CheckpointError: a state of other settings; the group is left as it was.
        """
        check_state(state, self._tensors())
        self.mean, self.sigma, self.path_c, self.path_sigma, self.generations = (
            state[name].to(self.device, copy=True)
            for name in ("mean", "sigma", "path_c", "path_sigma", "generations")
        )
        for random, saved in zip(self._random, state["random"].cpu(), strict=True):
            random.set_state(saved.clone())
        self.distribution.load(state)
        self.stopping.load(state)
        self._asked = None
