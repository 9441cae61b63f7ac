"""A client's update, simulated from its images under stated settings, beside a captured one."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ggl.base.random import stream, stream_seed
from ggl.defenses import Client, Defense
from ggl.gradients import GradientOracle, Gradients, LocalTraining
from ggl.gradients.view import global_norm
from ggl.victims.losses import Loss

__all__ = ["ALLOWED", "BLIND", "Observed", "SimulatedClient"]

ALLOWED = 0.02
"""Relative distance up to which an update is taken to be reproduced, beyond what rounding explains.

Right settings in float32 stay below 1e-4: every bundled victim, rates from 1e-3 to 0.1, up to eight local
steps. A rate that is 3 % wrong is 0.03 off. The room between is another machine's arithmetic's.
"""

SENSITIVE = 6.0
"""Times what rounding the weights does to an update, which is allowed besides: 5 was met in bfloat16."""

BLIND = 0.5
"""Share of an update that may be lost in rounding or noise before it can no longer be checked."""

DRAWS = 6
"""Of a client that draws noise: its updates differ among each other as they do from the captured one."""

DEVIATIONS = 10.0
"""Of the draws' squared distances, that the captured one's may be off."""

SMALL = 1e-6
"""Of a stated learning rate, at which local steps add up to their first-order update."""

FIT_STEPS, FIT_CONVERGED = 12, 1e-5
FIT_REACH, FIT_NEAR = math.log(1e8), math.log(10)
"""In log rate: how far from the stated rate one is looked for, and how near two are for their secant."""


@dataclass(frozen=True)
class SimulatedClient:
    """The client as it is said to train: its update can be computed.

    Attributes:
        images: its batch (b, c, h, w), as the victim is to read them, which needs not be [0, 1].
        local: its local steps, None for one step on the whole batch: a gradient.
        factor: its learning rate, relative to the one that the captured update was divided by.
    """

    victim: nn.Module
    images: Tensor
    labels: Tensor
    local: LocalTraining | None
    loss: Loss
    defense: Defense
    round: int
    rounds: int
    seed: int
    factor: float = 1.0

    def _oracle(self, draw: int) -> GradientOracle:
        local = self.local
        if local is not None:
            order = stream_seed(self.seed, "truth's order", draw)
            local = replace(local, learning_rate=local.learning_rate * self.factor, order_seed=order)
        return GradientOracle(self.victim, loss=self.loss, local=local, backend="sequential")

    def update(self, draw: int = 0) -> Gradients:
        """Return what it shares, in the captured update's units.

        Raises:
            GradientError: it is zero or not finite.
            InputError: the settings do not fit the images.
        """
        client = Client(
            self._oracle(draw),
            self.images,
            self.labels,
            seed=stream_seed(self.seed, "truth", draw),
            round=self.round,
            rounds=self.rounds,
        )
        shared = self.defense.share(client, stream(self.seed, "truth", self.defense.name, draw))
        return {name: g.detach().double() * self.factor for name, g in shared.items()}

    def rounded(self, rounding: float, draw: int) -> "SimulatedClient":
        """Return the client with weights that are off by up to half a spacing, at random.

        Args:
            rounding: the spacing of numbers, relative to 1.
            draw: which of the random ones.
        """
        victim, random = copy.deepcopy(self.victim), stream(self.seed, "rounding", draw)
        with torch.no_grad():
            for parameter in victim.parameters():
                off = torch.rand(parameter.shape, generator=random, dtype=torch.float64) - 0.5
                parameter.mul_(1 + rounding * off.to(parameter))
        return replace(self, victim=victim)

    def updates(self) -> list[Gradients]:
        """Return one update, or where noise is drawn `DRAWS` of them."""
        first, second = self.update(0), self.update(1)
        if all(torch.equal(first[name], second[name]) for name in first):
            return [first]
        return [first, second, *(self.update(draw) for draw in range(2, DRAWS))]


@dataclass(frozen=True)
class Observed:
    """A captured update, and what its files cannot tell.

    Attributes:
        lost: of every coordinate, how much of it rounding may have taken or added.
    """

    update: Gradients
    lost: Mapping[str, Tensor]

    @classmethod
    def of(cls, update: Gradients, client: SimulatedClient, rounding: float) -> "Observed":
        """Return an update in double precision, as files of a spacing `rounding`, relative to 1, hold it.

        Where the learning rate is not known, nothing is taken to be lost.
        """
        rate = math.inf if client.local is None else client.local.learning_rate
        weights = dict(client.victim.named_parameters())
        lost = {name: rounding * weights[name].detach().double().abs() / rate for name in update}
        return cls({name: g.to(lost[name]) for name, g in update.items()}, lost)

    @cached_property
    def norm(self) -> float:
        """The L2 norm of the update."""
        return float(global_norm(self.update))

    @cached_property
    def _rounded(self) -> float:
        """The share of the update that its files' rounding may hide."""
        lost = {name: torch.minimum(self.lost[name], g.abs()) for name, g in self.update.items()}
        return float(global_norm(lost)) / self.norm

    def distance(self, own: Sequence[Gradients]) -> float:
        """Return how far updates of a simulated client are from it, relative to its norm; 0 is reproduced.

        Of one update: the L2 norm of the difference beyond what is lost. Of several, which differ by noise,
        the root of what the captured one's mean squared distance to them is off from that among them, beyond
        `DEVIATIONS` deviations of the latter, or of what its least is beyond the largest among them; or the
        factor of its norm beyond those of theirs.
        """
        if len(own) == 1:
            return self._difference(own[0]) / self.norm
        squares, among = _squares(own), _scatter(own)
        beyond = np.square([self._difference(update) for update in own])
        plain = np.square([self._plain(update) for update in own])
        mean = max(beyond.mean() - among.mean(), among.mean() - plain.mean()) - DEVIATIONS * among.std()
        apart = math.sqrt(max(0.0, mean, beyond.min() - squares.max())) / self.norm
        sizes = np.log([max(float(global_norm(update)), 1e-30) for update in own])
        size = abs(math.log(self.norm) - sizes.mean()) - DEVIATIONS * sizes.std() - self._rounded
        return max(apart, math.expm1(max(0.0, size)))

    def blindness(self, own: Sequence[Gradients]) -> float:
        """Return the share of a client's update that may be wrong without a distance above 0."""
        if len(own) == 1:
            return self._rounded
        mean = {name: torch.stack([update[name] for update in own]).mean(0) for name in own[0]}
        among = _scatter(own)
        signal = max(float(global_norm(mean)) ** 2 - float(among.mean()) / (2 * len(own)), 1e-30)
        unseen = DEVIATIONS * float(among.std()) + (ALLOWED * self.norm) ** 2
        return max(self._rounded, math.sqrt(unseen / signal))

    def allowed(self, client: SimulatedClient, own: Gradients, rounding: float) -> float:
        """Return the distance up to which a client reproduces it, rounded weights and chaos considered."""
        off = [client.rounded(rounding, draw).update() for draw in range(2)]
        sizes = [float(global_norm({name: g - own[name] for name, g in moved.items()})) for moved in off]
        return ALLOWED + SENSITIVE * max(sizes) / self.norm

    def cosine(self, own: Sequence[Gradients]) -> float:
        """Return the cosine between it and the first of a client's updates, which knows of no scale."""
        return self._dot(own[0], self.update) / max(float(global_norm(own[0])) * self.norm, 1e-30)

    def fitted(self, client: SimulatedClient) -> SimulatedClient:
        """Return the client at the learning rate at which its update is the nearest.

        At the right one the update needs no further scale. That rate is found by secants of the log scale,
        from a rate so small that the update is its first-order one.
        """
        best, nearest = client, self._plain(client.update())
        log_rate = math.log(SMALL)
        previous: tuple[float, float] | None = None
        for _ in range(FIT_STEPS):
            tried = replace(client, factor=client.factor * math.exp(log_rate))
            own = tried.update()
            if (distance := self._plain(own)) < nearest:
                best, nearest = tried, distance
            scale = self._dot(own, self.update) / max(float(global_norm(own)) ** 2, 1e-30)
            if scale <= 0 or abs(scale - 1) < FIT_CONVERGED:
                break
            gap, step = math.log(scale), math.log(scale)
            if previous is not None and abs(log_rate - previous[0]) < FIT_NEAR and gap != previous[1]:
                step = -gap * (log_rate - previous[0]) / (gap - previous[1])
            previous = log_rate, gap
            log_rate += step
            if abs(log_rate) > FIT_REACH:
                break
        return best

    def _plain(self, own: Gradients) -> float:
        return float(global_norm({name: g - own[name] for name, g in self.update.items()}))

    def _difference(self, own: Gradients) -> float:
        beyond = {
            name: ((g - own[name]).abs() - self.lost[name]).clamp_min(0) for name, g in self.update.items()
        }
        return float(global_norm(beyond))

    def _dot(self, a: Gradients, b: Gradients) -> float:
        return float(torch.stack([(a[name] * b[name]).sum() for name in b]).sum())


def _scatter(own: Sequence[Gradients]) -> NDArray[np.float64]:
    """Return every update's mean squared distance to the others."""
    found: NDArray[np.float64] = _squares(own).sum(axis=1) / (len(own) - 1)
    return found


def _squares(own: Sequence[Gradients]) -> NDArray[np.float64]:
    """Return the squared distances between updates."""
    flat = torch.stack([torch.cat([g.flatten() for g in update.values()]) for update in own])
    exact = "donot_use_mm_for_euclid_dist"
    found: NDArray[np.float64] = torch.cdist(flat, flat, compute_mode=exact).square().cpu().numpy()
    return found
