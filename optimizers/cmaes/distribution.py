"""The zero-mean normal distributions that K searches sample from and adapt: full and diagonal covariance."""

import math
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from ggl.optimizers.base import State
from ggl.optimizers.cmaes.constants import Constants

__all__ = ["DiagonalCovariance", "Distribution", "FullCovariance", "Selection", "Which", "pick", "put"]

Which: TypeAlias = Tensor | None
"""Indices (n,) of the searches meant, None for all: these are then neither copied out nor back."""

MAX_CONDITION = 1e14
"""pycma's `tolconditioncov`: beyond it float64 does not resolve the covariance."""

FIRST_SPREAD = 1e-4
"""pycma starts from variances exp(0 ... 1e-4) instead of 1, so that no two eigenvalues are equal."""


@dataclass(frozen=True)
class Selection:
    """One generation of n searches as the update wants it."""

    z: Tensor
    """The standard normals drawn, (n, λ, d)."""
    y: Tensor
    """The steps that came of them, N(0, C), (n, λ, d)."""
    weights: Tensor
    """The weight of each row by its rank, (n, λ)."""
    path: Tensor
    """The evolution path p_c, (n, d)."""
    stalled: Tensor
    """Where h_σ is 0: the path took no step, (n,) bool."""


class Distribution(Protocol):
    """What a search needs of its covariance."""

    def prepare(self, which: Which, generations: Tensor) -> Tensor:
        """Make ready for sampling; return (n,) bool: searches whose covariance is past repair."""

    def steps(self, which: Which, z: Tensor) -> Tensor:
        """Return y ~ N(0, C) (39) of standard normals (n, λ, d)."""

    def recombine(self, which: Which, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the step y that a combination z (n, d) of the standard normals became, and C^(-1/2) y."""

    def update(self, which: Which, selection: Selection) -> None:
        """Adapt the covariance (47)."""

    def largest_axis(self, which: Which) -> Tensor:
        """Return the longest standard deviation, (n,)."""

    def state(self) -> State:
        """Return copies of the tensors."""

    def load(self, state: State) -> None:
        """Continue from `state`."""


def pick(tensor: Tensor, which: Which) -> Tensor:
    """Return the rows of the searches meant."""
    return tensor if which is None else tensor[which]


def put(tensor: Tensor, which: Which, part: Tensor) -> None:
    """Write the rows of the searches meant."""
    tensor.copy_(part) if which is None else tensor.index_copy_(0, which, part)


def variance_loss(constants: Constants, stalled: Tensor) -> Tensor:
    """Return (1 - h_σ) c_c (2 - c_c), δ(h_σ) of (47): the variance that a stalled path lacks, (n,)."""
    return stalled.double() * (constants.cc * (2 - constants.cc))


class FullCovariance:
    """K covariance matrices (K, d, d) and their eigensystems, which lag by less than the gap.

    What is seldom needed is done on a CPU only where it is, on a GPU always: asking would halt it.
    """

    def __init__(self, count: int, constants: Constants, device: torch.device) -> None:
        self.constants, self.device = constants, device
        dim = constants.dim
        order = torch.arange(dim, dtype=torch.float64, device=device)
        variances = torch.exp(order * (FIRST_SPREAD / dim)).expand(count, dim)
        self.covariance = torch.diag_embed(variances)
        self.axes = torch.eye(dim, dtype=torch.float64, device=device).repeat(count, 1, 1)
        self.lengths = variances.sqrt()
        self.decomposed = torch.zeros(count, dtype=torch.int64, device=device)

    def prepare(self, which: Which, generations: Tensor) -> Tensor:
        """Decompose the covariance of every search whose turn it is."""
        since = pick(generations - self.decomposed, which)
        due = since >= max(1.0, self.constants.gap)
        past = torch.zeros_like(due)
        turns = due.tolist()  # the one read of a device
        if not any(turns):
            return past
        if all(turns):
            return self._decompose(which, generations)
        rows = torch.tensor([row for row, turn in enumerate(turns) if turn])
        rows = rows.to(self.device, non_blocking=True)
        past[rows] = self._decompose(rows if which is None else which[rows], generations)
        return past

    def _decompose(self, which: Which, generations: Tensor) -> Tensor:
        covariance = pick(self.covariance, which)
        finite = covariance.diagonal(dim1=1, dim2=2).isfinite().all(1)
        if covariance.is_cuda or not finite.all():
            covariance = torch.where(finite[:, None, None], covariance, pick(self.axes, which))
        variances, vectors = torch.linalg.eigh(covariance)
        sound = finite & (variances[:, 0] > 0) & (variances[:, -1] <= MAX_CONDITION * variances[:, 0])
        axes, lengths = vectors.mT, variances.clamp_min(0).sqrt()
        if covariance.is_cuda or not sound.all():
            axes = torch.where(sound[:, None, None], axes, pick(self.axes, which))
            lengths = torch.where(sound[:, None], lengths, pick(self.lengths, which))
        if which is None:
            self.axes, self.lengths = axes, lengths
        else:
            put(self.axes, which, axes)
            put(self.lengths, which, lengths)
        put(self.decomposed, which, pick(generations, which))
        lost: Tensor = ~sound
        return lost

    def steps(self, which: Which, z: Tensor) -> Tensor:
        """Return B D z."""
        return torch.bmm(z * pick(self.lengths, which)[:, None], pick(self.axes, which))

    def recombine(self, which: Which, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return B D z and B z: C^(-1/2) B D z = B D⁻¹ Bᵀ B D z."""
        both = torch.stack([z * pick(self.lengths, which), z], dim=1)
        step, whitened = torch.bmm(both, pick(self.axes, which)).unbind(1)
        return step, whitened

    def update(self, which: Which, selection: Selection) -> None:
        """Add the rank-one and the rank-μ part in one product.

        A negative weight is scaled by d / ‖C^(-1/2) y‖² (46), which is d / ‖z‖² here.
        """
        c, weights = self.constants, selection.weights
        squared = (torch.linalg.vector_norm(selection.z, dim=2) + 1e-9).square()
        scaled = c.cmu * torch.where(weights < 0, weights * (c.dim / squared), weights)
        rows = torch.cat([selection.path[:, None], selection.y], dim=1)
        scaled = torch.cat([scaled.new_full((len(scaled), 1), c.c1), scaled], dim=1)
        decay = 1 - c.c1 - c.cmu * c.total_weight
        covariance = pick(self.covariance, which)
        if covariance.is_cuda or selection.stalled.any():
            gain = 1 + c.c1 * variance_loss(c, selection.stalled) / decay
            covariance = covariance.mul_(gain[:, None, None])
        covariance.baddbmm_((rows * scaled[:, :, None]).mT, rows, beta=decay)
        if which is not None:
            put(self.covariance, which, covariance)

    def largest_axis(self, which: Which) -> Tensor:
        """Return the square root of the largest eigenvalue as of the last decomposition."""
        return pick(self.lengths, which)[:, -1]

    def state(self) -> State:
        """Return the matrices, their eigensystems and the generations of these."""
        return {
            "covariance": self.covariance.clone(),
            "axes": self.axes.clone(memory_format=torch.contiguous_format),
            "lengths": self.lengths.clone(),
            "decomposed": self.decomposed.clone(),
        }

    def load(self, state: State) -> None:
        """Take copies."""
        self.covariance, self.axes, self.lengths, self.decomposed = (
            state[name].to(self.device, copy=True) for name in ("covariance", "axes", "lengths", "decomposed")
        )


class DiagonalCovariance:
    """K diagonals of covariance matrices, (K, d), updated by an exponential as in pycma.

    Unlike Ros and Hansen (PPSN 2008), whose update is linear; p_c stays in the coordinates of its time.
    """

    def __init__(self, count: int, constants: Constants, device: torch.device) -> None:
        self.constants, self.device = constants, device
        self.covariance = torch.ones(count, constants.dim, dtype=torch.float64, device=device)

    def prepare(self, which: Which, generations: Tensor) -> Tensor:  # noqa: ARG002
        """Check the condition alone: a diagonal is its own eigensystem."""
        variances = pick(self.covariance, which)
        least, most = variances.aminmax(dim=1)
        return ~((least > 0) & (most <= MAX_CONDITION * least) & most.isfinite())

    def steps(self, which: Which, z: Tensor) -> Tensor:
        """Return D z."""
        return z * pick(self.covariance, which).sqrt()[:, None]

    def recombine(self, which: Which, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return D z and z."""
        return z * pick(self.covariance, which).sqrt(), z

    def update(self, which: Which, selection: Selection) -> None:
        """Multiply by exp(ln 2 Σ w (z² - 1)), pycma's `DiagonalDecoding.update`."""
        c = self.constants
        rank_one = c.c1 * (1 - variance_loss(c, selection.stalled))
        spread = torch.bmm(c.cmu * selection.weights[:, None], selection.z.square())[:, 0]
        spread = spread + rank_one[:, None] * selection.path.square()
        exponent = spread - (rank_one + c.cmu * c.total_weight)[:, None]
        put(self.covariance, which, pick(self.covariance, which) * torch.exp(math.log(2) * exponent))

    def largest_axis(self, which: Which) -> Tensor:
        """Return the largest standard deviation."""
        return pick(self.covariance, which).amax(dim=1).sqrt()

    def state(self) -> State:
        """Return the diagonals."""
        return {"covariance": self.covariance.clone()}

    def load(self, state: State) -> None:
        """Take a copy."""
        self.covariance = state["covariance"].to(self.device, copy=True)
