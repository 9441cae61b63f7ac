"""Intervals and tests over images: what a figure is worth. Every function is deterministic.

All intervals are of 95 %. Nothing depends on the order in which images come.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsFloat

import numpy as np
import scipy
from numpy.typing import NDArray

from ggl.base.errors import InputError
from ggl.base.random import numpy_stream

__all__ = ["Interval", "bootstrap_mean", "bootstrap_ratio", "paired_test", "share", "share_of_clusters"]

Sample = Sequence[SupportsFloat] | NDArray[Any]
Values = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 9_999
BATCH = 1_000


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval over `n` images; NaN bounds say that `n` images give none."""

    mean: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Return the fields for JSON, where what is undefined is None."""
        figures = {"mean": self.mean, "low": self.low, "high": self.high}
        return {**{key: None if math.isnan(x) else x for key, x in figures.items()}, "n": self.n}


def bootstrap_mean(values: Sample) -> Interval:
    """Return the mean of `values` (n,) with its bootstrap interval.

    The interval is BCa (Efron 1987) where that is defined, else the percentile one; a constant
    sample gives low = high = mean, a single value gives NaN bounds.

    Raises:
        InputError: `values` is empty, not one-dimensional, or holds a value that is not finite.
    """
    return bootstrap_ratio(values, np.ones(len(values)))


def bootstrap_ratio(numerators: Sample, denominators: Sample) -> Interval:
    """Return sum(numerators) / sum(denominators), both (n,), images being resampled jointly.

    The interval is the one of `bootstrap_mean`. It has NaN bounds where the denominators' sum
    vanishes or changes its sign among the resamples, since then no finite interval covers the
    ratio; where the sum itself is 0 the ratio is NaN too.

    Raises:
        InputError: either is empty, not one-dimensional, of another length, or not finite.
    """
    top, bottom = _sorted_pair(numerators, denominators)
    total = math.fsum(bottom)
    if total == 0:
        return Interval(math.nan, math.nan, math.nan, top.size)
    mean = math.fsum(top) / total
    return Interval(mean, *_ratio_bounds(top, bottom, mean), top.size)


def share(successes: int, n: int) -> Interval:
    """Return successes / n with Wilson's score interval (Wilson 1927).

    Raises:
        InputError: not 0 <= successes <= n, or n is 0.
    """
    if not 0 <= successes <= n or n == 0:
        raise InputError(f"expected 0 <= successes <= n and n >= 1, found {successes} of {n}")
    bounds = scipy.stats.binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(successes / n, float(bounds.low), float(bounds.high), n)


def share_of_clusters(shares: Sample) -> Interval:
    """Return the mean of clusters' shares (n,), in [0, 1], with Wilson's interval of n draws.

    As if the members of a cluster always agreed: where they do not, the interval is wider than it need be.
    A bootstrap of a few clusters that are all 0 would have no width at all.

    Raises:
        InputError: no cluster.
    """
    values = np.asarray(shares, dtype=np.float64)
    n = values.size
    if n == 0:
        raise InputError("expected at least one cluster's share, found none")
    mean, z2 = math.fsum(values) / n, scipy.stats.norm.ppf((1 + CONFIDENCE) / 2) ** 2
    center = (mean + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (mean * (1 - mean) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Interval(mean, max(0.0, center - half), min(1.0, center + half), n)


def paired_test(a: Sample, b: Sample) -> float:
    """Return the two-sided p-value of "a and b, paired by image, have the same mean", in (0, 1].

    A sign-flip permutation test of the mean difference: exact up to 13 images, where the least
    value is 2 / 2^n, and by 9,999 random flips beyond, where it is 2 / 10,000. One image gives 1.

    Raises:
        InputError: either is empty, not one-dimensional, of another length, or not finite.
    """
    first, second = _sorted_pair(a, b)
    difference = np.sort(first - second)
    if difference.size == 1:
        return 1.0
    result = scipy.stats.permutation_test(
        (difference, -difference),
        lambda x, _, axis: x.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=BATCH,
        rng=numpy_stream(0, "paired test"),
    )
    return float(result.pvalue)


def _ratio_bounds(top: Values, bottom: Values, mean: float) -> tuple[float, float]:
    if top.size == 1:
        return math.nan, math.nan
    widest = np.argmax(np.abs(bottom))
    if np.array_equal(top, bottom / bottom[widest] * top[widest]):
        return mean, mean
    low, high = _scipy_bounds(top, bottom, "BCa")
    if math.isnan(low) or math.isnan(high):
        low, high = _scipy_bounds(top, bottom, "percentile")
    return low, high


def _scipy_bounds(top: Values, bottom: Values, method: str) -> tuple[float, float]:
    sign = np.sign(bottom.sum())

    def ratio(x: Values, y: Values, axis: int) -> Values | np.float64:
        total = y.sum(axis=axis)
        quotient: Values | np.float64 = x.sum(axis=axis) / np.where(total * sign > 0, total, np.nan)
        return quotient

    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        bounds = scipy.stats.bootstrap(
            (top, bottom),
            ratio,
            paired=True,
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=BATCH,
            confidence_level=CONFIDENCE,
            method=method,
            rng=numpy_stream(0, "bootstrap"),
        ).confidence_interval
    return float(bounds.low), float(bounds.high)


def _sorted_pair(first: Sample, second: Sample) -> tuple[Values, Values]:
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or a.size == 0:
        raise InputError(
            f"expected one value for each of n >= 1 images, found the shapes {a.shape} and {b.shape}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("expected finite values, found an infinite or undefined one; drop no image silently")
    order = np.lexsort((b, a))
    return a[order], b[order]


def finite_or_none(value: float) -> float | None:
    """Return a number for JSON, which knows no infinity."""
    return float(value) if math.isfinite(value) else None
