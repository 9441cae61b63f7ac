"""Differentially private gradients: every example is clipped, the mean is noised.

A "layer" is one parameter tensor, as in the authors' code, whose models have no biases. The attacker
clips trial gradients as a client of one image does; for a larger batch, where the mean of clipped
gradients is shared, that is an approximation. A bound that is estimated from the observed norm comes out
too large, as the noise adds to it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from ggl.base.errors import InputError
from ggl.defenses.base import Defense, number_text
from ggl.defenses.client import Client
from ggl.defenses.clipping import Clipping, LayerClipping
from ggl.defenses.mechanism import Mechanism, Release, noise_on
from ggl.defenses.schedules import (
    L2_MAX_CAP,
    NOISE_SCHEDULES,
    decaying_bound,
    l2_max_bounds,
    median_bounds,
)
from ggl.gradients import Clip, Gradients, View

__all__ = ["DPSGD", "DynamicDP", "FedCDP", "Guarantee", "PrivateDefense"]

Guarantee: TypeAlias = Literal["formal", "nominal"]
"""Whether an ε that is computed for a defense holds, or would if its bounds did not depend on the data."""

NoiseSchedule: TypeAlias = Literal["linear", "staircase", "staircase-code", "exponential", "cyclic", "fixed"]
ClippingBound: TypeAlias = Literal["fixed", "decaying", "median", "l2-max"]

Norms: TypeAlias = Float[Tensor, "b layers"]
LayerBounds: TypeAlias = Float[Tensor, " layers"]


class PrivateDefense(Defense, ABC):
    """Shares mean_i(f_i g_i) + N(0, (σ(t) · bound / B)²), each example's factors f_i from its clipping.

    A subclass writes `clipping`, `noise_multiplier` and `sensitivity_factor`.

    Attributes:
        guarantee: "nominal" where the bounds depend on the data.
    """

    guarantee: Guarantee = "formal"

    @abstractmethod
    def clipping(self, norms: Norms, progress: float) -> tuple[Norms, LayerBounds]:
        """Return every example's factors by layer, and the bounds that the noise is in proportion to."""

    @abstractmethod
    def noise_multiplier(self, progress: float) -> float:
        """Return σ(t) at t/T = `progress`: the noise's deviation in units of the bound."""

    @abstractmethod
    def sensitivity_factor(self, layers: int) -> float:
        """Return the norm of a clipped example in units of the bound, at most, over `layers` tensors."""

    def noise_multipliers(self, rounds: int) -> NDArray[np.float64]:
        """Return σ(t) of every round, (rounds,), in units of the bound: before the sensitivity factor.

        Raises:
            InputError: no round.
        """
        if rounds < 1:
            raise InputError(f"{self.name}: expected at least 1 round, found {rounds}")
        return np.array([self.noise_multiplier(t / rounds) for t in range(rounds)])

    def mechanism(self, release: Release, before: float = math.inf) -> Mechanism | None:
        """Return that of one clipped example among the batch's; None where bounds depend on the data."""
        if self.guarantee == "nominal":
            return None
        _, bounds = self.clipping(torch.zeros(1, release.layers, dtype=torch.float64), release.progress)
        bound = float(bounds[0]) / release.batch
        signal = self.sensitivity_factor(release.layers) * bound
        scale = self.noise_multiplier(release.progress) * bound
        return noise_on(signal, "gaussian", scale, by_example=True)

    @property
    def is_postprocessing(self) -> bool:
        """Whether it sees nothing but the gradient: after another defense it refuses to see the batch."""
        return True

    def protect(self, gradients: Gradients, generator: torch.Generator) -> Gradients:
        """Return what a client of this one example shares in the first round."""
        return self._release([gradients], 0.0, generator)

    def share(self, client: Client, generator: torch.Generator) -> Gradients:
        """Return what a client shares.

        Raises:
            InputError: another defense has mixed the examples already.
        """
        return self._release(client.examples(), client.progress, generator)

    def _release(
        self, examples: Sequence[Gradients], progress: float, generator: torch.Generator
    ) -> Gradients:
        norms = torch.stack([torch.stack([_norm(g) for g in example.values()]) for example in examples])
        factors, bounds = self.clipping(norms, progress)
        stds = self.noise_multiplier(progress) * bounds / len(examples)
        shared = {}
        for layer, name in enumerate(examples[0]):
            clipped = [f * example[name] for f, example in zip(factors[:, layer], examples, strict=True)]
            mean = torch.stack(clipped).mean(0)
            noise = torch.randn(mean.shape, generator=generator, dtype=torch.float64).to(mean)
            shared[name] = (mean + stds[layer] * noise).to(examples[0][name].dtype)
        return shared


class DPSGD(PrivateDefense):
    """Clips every example's whole gradient to `clip`, adds N(0, (sigma·clip/B)²) to the mean (Abadi 2016).

    Abadi et al., Deep Learning with Differential Privacy (arXiv 1607.00133, algorithm 1), as in Opacus;
    the factor is min(1, clip/‖g_i‖), B is the batch's own size.
    """

    def __init__(self, clip: float, sigma: float) -> None:
        self.clip, self.sigma = _clip("dp-sgd", clip), _sigma("dp-sgd", sigma)
        self.name = f"dp-sgd:{number_text(clip)},{number_text(sigma)}"

    def clipping(self, norms: Norms, progress: float) -> tuple[Norms, LayerBounds]:
        whole = torch.linalg.vector_norm(norms, dim=1, keepdim=True).expand_as(norms)
        bounds = torch.full_like(norms, self.clip)
        return _factors(whole, bounds), bounds[0]

    def noise_multiplier(self, progress: float) -> float:
        return self.sigma

    def sensitivity_factor(self, layers: int) -> float:
        return 1.0

    def adapt(self, observed: Gradients, attacker: str, model: nn.Module | None) -> View:
        return Clipping(self.clip).adapt(observed, attacker, model)


class FedCDP(PrivateDefense):
    """Clips every layer of every example to `clip`, adds N(0, (sigma·clip/B)²) to the mean (Fed-CDP).

    Wei et al., Gradient-Leakage Resilient Federated Learning (ICDCS 2021). The default of `sigma` is the
    one of the authors' accounting; their training code has 0.5.
    """

    def __init__(self, clip: float = 4.0, sigma: float = 6.0) -> None:
        self.clip, self.sigma = _clip("fed-cdp", clip), _sigma("fed-cdp", sigma)
        self.name = f"fed-cdp:{number_text(clip)},{number_text(sigma)}"

    def clipping(self, norms: Norms, progress: float) -> tuple[Norms, LayerBounds]:
        bounds = torch.full_like(norms, self.clip)
        return _factors(norms, bounds), bounds[0]

    def noise_multiplier(self, progress: float) -> float:
        return self.sigma

    def sensitivity_factor(self, layers: int) -> float:
        """Return √layers: every layer of an example may be as long as the bound."""
        return math.sqrt(layers)

    def adapt(self, observed: Gradients, attacker: str, model: nn.Module | None) -> View:
        return LayerClipping(self.clip).adapt(observed, attacker, model)


class DynamicDP(PrivateDefense):
    """Fed-CDP whose noise and clipping bound follow the training (dynamic DP, arXiv 2112.13178).

    Args:
        schedule: of the noise multiplier σ(t), by the functions of `schedules`; "fixed" is `sigma`.
        clipping: of every layer of every example: "fixed" to `clip`; "decaying" from `clip` to `floor`;
            "median", the layer's over the batch; "l2-max", S_i, which clips only what exceeds 32. The
            noise's deviation is σ(t)/B times the bound, for l2-max σ(t) · mean_i(S_i)/B.
        clip: of fixed and decaying clipping, 4 if not given.
        floor: of decaying clipping, 2 if not given.
        sigma: of the fixed schedule, 6 if not given.
    """

    def __init__(
        self,
        schedule: NoiseSchedule = "linear",
        *,
        clipping: ClippingBound = "fixed",
        clip: float | None = None,
        floor: float | None = None,
        sigma: float | None = None,
    ) -> None:
        data_free, decays = clipping in ("fixed", "decaying"), clipping == "decaying"
        self.schedule, self.bound = schedule, clipping
        self.clip = _only("clip", clip, 4.0, data_free, "clipping=fixed or decaying")
        self.floor = _only("floor", floor, 2.0, decays, "clipping=decaying")
        self.sigma = _only("sigma", sigma, 6.0, schedule == "fixed", "schedule=fixed")
        self.guarantee = "formal" if data_free else "nominal"
        _clip("dynamic-dp", self.clip)
        _sigma("dynamic-dp", self.sigma)
        if decays and not 0 < self.floor <= self.clip:
            limit = f"above 0 and at most the clip of {self.clip:g}"
            raise InputError(f"dynamic-dp: expected a floor {limit}, found {self.floor:g}")
        self.name = f"dynamic-dp:{schedule},clipping={clipping}"
        self.name += f",clip={number_text(self.clip)}" if data_free else ""
        self.name += f",floor={number_text(self.floor)}" if decays else ""
        self.name += f",sigma={number_text(self.sigma)}" if schedule == "fixed" else ""

    def clipping(self, norms: Norms, progress: float) -> tuple[Norms, LayerBounds]:
        bounds = self._bounds(norms, progress)
        return _factors(norms, bounds), bounds.mean(0)

    def _bounds(self, norms: Norms, progress: float) -> Norms:
        if self.bound == "median":
            return median_bounds(norms)
        if self.bound == "l2-max":
            return l2_max_bounds(norms)
        decays = self.bound == "decaying"
        return torch.full_like(
            norms, decaying_bound(self.clip, self.floor, progress) if decays else self.clip
        )

    def noise_multiplier(self, progress: float) -> float:
        return self.sigma if self.schedule == "fixed" else NOISE_SCHEDULES[self.schedule](progress)

    def sensitivity_factor(self, layers: int) -> float:
        """Return √layers: every layer of an example may be as long as the bound."""
        return math.sqrt(layers)

    def adapt(self, observed: Gradients, attacker: str, model: nn.Module | None) -> View:
        """Return the clip that is known, or its estimate, kept within what the attacker knows of it."""
        if self.bound == "l2-max":
            return LayerClipping(L2_MAX_CAP).adapt(observed, "informed", model)
        layered = LayerClipping(self.clip)
        if attacker != "informed" or self.bound == "median":
            return layered.adapt(observed, "adaptive", model)
        if self.bound == "fixed":
            return layered.adapt(observed, "informed", model)
        norms = {name: float(g.norm()) for name, g in observed.items()}
        return View(
            observed, (Clip({name: min(max(n, self.floor), self.clip) for name, n in norms.items()}),)
        )


def _norm(gradient: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(gradient, dtype=torch.float64)
    return norm


def _factors(norms: Norms, bounds: Norms) -> Norms:
    """Return min(1, bound / norm)."""
    return torch.where(norms > bounds, bounds / norms, torch.ones_like(norms))


def _clip(name: str, clip: float) -> float:
    if not (clip > 0 and math.isfinite(clip)):
        raise InputError(f"{name}: expected a clip above 0, found {clip:g}")
    return clip


def _sigma(name: str, sigma: float) -> float:
    if not (sigma >= 0 and math.isfinite(sigma)):
        raise InputError(f"{name}: expected a sigma of at least 0, found {sigma:g}")
    return sigma


def _only(option: str, value: float | None, default: float, fits: bool, where: str) -> float:
    if value is not None and not fits:
        raise InputError(f"dynamic-dp: {option} is an option of {where} only; leave it out")
    return default if value is None else value
