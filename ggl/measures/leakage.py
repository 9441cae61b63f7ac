"""From pictures to a measurement: errors, ranks among decoys, and the leak score against controls."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import scipy
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ggl.measures.metrics import mse, psnr, psnr_signed, ssim, ssim_error
from ggl.measures.statistics import (
    Interval,
    bootstrap_ratio,
    paired_test,
    share,
    share_of_clusters,
)

__all__ = [
    "HEADLINE",
    "LeakScore",
    "Measure",
    "Scores",
    "identification",
    "identification_test",
    "identifies",
    "leak_score",
    "measures",
    "score",
]

Measure: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From images and private images, (n, c, h, w) each, to one number a pair, (n,)."""

HEADLINE = "mse"
"""The error behind the leak score that stands without another name."""

SIGNIFICANCE = 0.05

MOST_DB = 100.0
"""Caps the PSNR, which is infinite of an exact reconstruction."""


def _capped(decibels: Measure) -> Measure:
    return lambda a, b: decibels(a, b).clamp(max=MOST_DB)


DESCRIPTIVE: dict[str, Measure] = {"psnr": _capped(psnr), "psnr_signed": _capped(psnr_signed), "ssim": ssim}
ERRORS: dict[str, Measure] = {"mse": mse, "ssim_error": ssim_error}


@dataclass(frozen=True)
class Scores:
    """What n reconstructions are worth: every metric's values (n,), and the private images' ranks (n,).

    A rank is the private image's place among itself and its decoys by distance to the nearest
    reconstruction of its batch; 1 is identified. `decoys` (n,) counts the others. Images that one gradient
    gave away together, `batch` in a row, are no independent sample: figures and tests are over clients.
    """

    values: Mapping[str, NDArray[np.float64]]
    ranks: NDArray[np.int64]
    decoys: NDArray[np.int64]
    batch: int = 1

    @property
    def clients(self) -> int:
        """How many gradients stand behind the reconstructions."""
        return len(self.ranks) // self.batch

    def by_client(self, metric: str) -> NDArray[np.float64]:
        """Return the mean of a metric over each client's batch, (clients,)."""
        return self.per_client(self.values[metric])

    def per_client(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return the mean of values (n,) over each client's batch, (clients,)."""
        means: NDArray[np.float64] = values.reshape(-1, self.batch).mean(axis=1, dtype=np.float64)
        return means

    def chances(self) -> NDArray[np.float64]:
        """Return the share of each client's images that would rank first by chance, (clients,)."""
        return self.per_client(1 / (self.decoys + 1))


@dataclass(frozen=True)
class LeakScore:
    """Leak score by one error metric, against the control that was strongest on average.

    Attributes:
        gains: by how much each client's attack is nearer than that control, (clients,).
        room: by how much its ceiling is.
    """

    interval: Interval
    control: str
    p_value: float
    gains: NDArray[np.float64] = field(repr=False, compare=False)
    room: NDArray[np.float64] = field(repr=False, compare=False)

    @property
    def leaks(self) -> bool:
        """Whether more came out than the class alone gives away: interval above 0, and p < 0.05."""
        return self.interval.low > 0 and self.p_value < SIGNIFICANCE

    def widened(self, factor: float, p_value: float) -> "LeakScore":
        """Return the score with another test's p-value and an interval of a larger critical value."""
        undefined = np.isnan(self.interval.mean)
        interval = self.interval if undefined else bootstrap_ratio(self.gains, self.room, factor)
        return replace(self, interval=interval, p_value=p_value)

    def to_dict(self) -> dict[str, object]:
        """Return the interval with the control's name and the paired test's p-value."""
        return {**self.interval.to_dict(), "control": self.control, "p_value": self.p_value}


def measures(features: Measure | None, lpips: Measure | None) -> dict[str, Measure]:
    """Return every error metric at hand: those with needs of their own only where these are given."""
    found = dict(ERRORS)
    if lpips is not None:
        found["lpips"] = lpips
    if features is not None:
        found["feature_distance"] = features
    return found


@torch.no_grad()
def score(
    reconstructions: Float[Tensor, "n c h w"],
    private: Float[Tensor, "n c h w"],
    decoys: Sequence[Float[Tensor, "m c h w"]],
    errors: Mapping[str, Measure],
    batch: int = 1,
) -> Scores:
    """Score reconstructions against the private images and rank these among decoys of their class.

    `batch` of them in a row are of one client. A PSNR is at most 100 dB, so that means exist where a
    reconstruction is exact.
    """
    both = {**DESCRIPTIVE, **errors}
    values = {name: measure(reconstructions, private).double().numpy() for name, measure in both.items()}
    groups = [group for group in reconstructions.split(batch) for _ in group]
    ranks = [rank(*images) for images in zip(groups, private, decoys, strict=True)]
    return Scores(values, np.array(ranks), np.array([len(d) for d in decoys]), batch)


def rank(
    reconstructions: Float[Tensor, "b c h w"],
    private: Float[Tensor, "c h w"],
    decoys: Float[Tensor, "m c h w"],
) -> int:
    """Return the private image's rank by mean squared error to the nearest reconstruction of its batch.

    Decoys have the same choice among the reconstructions, so that chance is what it is for one image. A
    decoy that ties counts half.
    """
    own = (reconstructions - private).square().flatten(1).mean(1).min()
    others = torch.stack([(decoys - r).square().flatten(1).mean(1) for r in reconstructions]).amin(0)
    nearer, level = int((others < own).sum()), int((others == own).sum())
    return 1 + nearer + level // 2


def leak_score(
    attack: NDArray[np.float64],
    ceiling: NDArray[np.float64],
    controls: Mapping[str, NDArray[np.float64]],
) -> LeakScore:
    """Return (control - attack) / (control - ceiling), a ratio of sums over clients, of errors (n,) each.

    The control is the one of least mean error. 0 is what the class alone gives away, 1 all that the
    prior can say; the interval is `bootstrap_ratio`'s, the p-value a paired permutation test of attack
    against control. Where the ceiling is no better than that control, the prior cannot say more than the
    class alone: the score is undefined (NaN).
    """
    name = min(controls, key=lambda control: float(np.mean(controls[control])))
    gains, room = controls[name] - attack, controls[name] - ceiling
    interval = Interval(math.nan, math.nan, math.nan, len(attack))
    if np.sum(room) > 0:
        interval = bootstrap_ratio(gains, room)
    return LeakScore(interval, name, paired_test(attack, controls[name]), gains, room)


def identifies(scores: Scores) -> bool:
    """Say whether private images rank first more often than chance would have it: p < 0.05 of the test."""
    return identification_test(scores) < SIGNIFICANCE


def identification_test(scores: Scores) -> float:
    """Return the p-value of "private images rank first no more often than 1 / (decoys + 1)", in (0, 1].

    Of a one-sided binomial test where every image is a client's own, else of a permutation test over clients
    of the share that ranks first against chance. Fewer than two images that do give 1.
    """
    first = scores.ranks == 1
    if first.sum() < 2:
        return 1.0
    chance = scores.chances()
    if scores.batch == 1:
        found = scipy.stats.binomtest(
            int(first.sum()), len(first), float(chance.mean()), alternative="greater"
        )
        return float(found.pvalue)
    shares = scores.per_client(first)
    return paired_test(shares, chance) if shares.mean() > chance.mean() else 1.0


def identification(scores: Scores) -> dict[str, Interval]:
    """Return how often the private image is found: top 1, top 10, and its mean percentile.

    The percentile is the share of decoys that lie nearer; chance is 0.5 and 0 is identified.
    """
    percentile = scores.per_client((scores.ranks - 1) / scores.decoys)
    return {
        "identification": _share_within(scores, 1),
        "identification_top10": _share_within(scores, 10),
        "identification_percentile": share_of_clusters(percentile),
    }


def _share_within(scores: Scores, rank: int) -> Interval:
    """Return the share of images of at most a rank, with its interval over clients."""
    found = scores.ranks <= rank
    if scores.batch == 1:
        return share(int(found.sum()), len(found))
    return share_of_clusters(scores.per_client(found))
