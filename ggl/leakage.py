"""From pictures to a measurement: errors, ranks among decoys, and the leak score against controls."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.stats import binomtest  # type: ignore[attr-defined]
from torch import Tensor

from ggl.metrics import mse, psnr, psnr_signed, ssim, ssim_error
from ggl.statistics import Interval, bootstrap_mean, bootstrap_ratio, paired_test, share

__all__ = [
    "HEADLINE",
    "LeakScore",
    "Measure",
    "Scores",
    "identification",
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

    A rank is the private image's place among itself and its decoys by distance to the reconstruction;
    1 is identified. `decoys` (n,) counts the others.
    """

    values: Mapping[str, NDArray[np.float64]]
    ranks: NDArray[np.int64]
    decoys: NDArray[np.int64]


@dataclass(frozen=True)
class LeakScore:
    """Leak score by one error metric, against the control that was strongest on average."""

    interval: Interval
    control: str
    p_value: float

    @property
    def leaks(self) -> bool:
        """Whether more came out than the class alone gives away: interval above 0, and p < 0.05."""
        return self.interval.low > 0 and self.p_value < SIGNIFICANCE

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
) -> Scores:
    """Score reconstructions against the private images and rank these among decoys of their class.

    A PSNR is at most 100 dB, so that means exist where a reconstruction is exact.
    """
    both = {**DESCRIPTIVE, **errors}
    values = {name: measure(reconstructions, private).double().numpy() for name, measure in both.items()}
    ranks = [rank(*images) for images in zip(reconstructions, private, decoys, strict=True)]
    return Scores(values, np.array(ranks), np.array([len(d) for d in decoys]))


def rank(
    reconstruction: Float[Tensor, "c h w"], private: Float[Tensor, "c h w"], decoys: Float[Tensor, "m c h w"]
) -> int:
    """Return the private image's rank by mean squared error; a decoy that ties counts half."""
    own = (reconstruction - private).square().mean()
    others = (decoys - reconstruction).square().flatten(1).mean(1)
    nearer, level = int((others < own).sum()), int((others == own).sum())
    return 1 + nearer + level // 2


def leak_score(
    attack: NDArray[np.float64],
    ceiling: NDArray[np.float64],
    controls: Mapping[str, NDArray[np.float64]],
) -> LeakScore:
    """Return (control - attack) / (control - ceiling), a ratio of sums over images, of errors (n,) each.

    The control is the one of least mean error. 0 is what the class alone gives away, 1 all that the
    prior can say; the interval is a 95 % bootstrap over images, the p-value a paired permutation test
    of attack against control. Where the ceiling is no better than that control, the prior cannot say
    more than the class alone: the score is undefined (NaN).
    """
    name = min(controls, key=lambda control: float(np.mean(controls[control])))
    control = controls[name]
    if np.sum(control - ceiling) <= 0:
        undefined = Interval(math.nan, math.nan, math.nan, len(attack))
        return LeakScore(undefined, name, paired_test(attack, control))
    interval = bootstrap_ratio(control - attack, control - ceiling)
    return LeakScore(interval, name, paired_test(attack, control))


def identifies(scores: Scores) -> bool:
    """Say whether private images rank first more often than chance would have it.

    At least two do, and a one-sided binomial test against 1 / (decoys + 1) has p < 0.05.
    """
    found = int((scores.ranks == 1).sum())
    chance = float(np.mean(1 / (scores.decoys + 1)))
    p_value = binomtest(found, len(scores.ranks), chance, alternative="greater").pvalue
    return found > 1 and bool(p_value < SIGNIFICANCE)


def identification(scores: Scores) -> dict[str, Interval]:
    """Return how often the private image is found: top 1, top 10, and its mean percentile.

    The percentile is the share of decoys that lie nearer; chance is 0.5 and 0 is identified.
    """
    n = len(scores.ranks)
    return {
        "identification": share(int((scores.ranks == 1).sum()), n),
        "identification_top10": share(int((scores.ranks <= 10).sum()), n),
        "identification_percentile": bootstrap_mean((scores.ranks - 1) / scores.decoys),
    }
