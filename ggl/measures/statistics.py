"""Intervals and tests over images: what a figure is worth. Every function is deterministic.

All intervals are of 95 %: `docs/statistics.md` says how often each covers what it should. Nothing depends on
the order in which images come.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, SupportsFloat

import numpy as np
import scipy
from jaxtyping import Float64
from numpy.typing import NDArray

from ggl.base.errors import InputError
from ggl.base.random import numpy_stream

__all__ = [
    "Interval",
    "bootstrap_mean",
    "bootstrap_ratio",
    "max_test",
    "paired_test",
    "ratio_bounds",
    "share",
    "share_of_clusters",
]

Sample = Sequence[SupportsFloat] | NDArray[Any]
Values = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 9_999
BATCH = 1_000

MOST_OF_STUDENT = 1.5
"""The bootstrap's critical value is at most so many times Student's: six images don't tell a far tail."""

ROUNDING = 1e-12
"""Of a sum's own size: the spread of a resample of one value only, and the difference of equal statistics."""

FLIPS, EXACT = 10_000, 13
"""Sign flips at most, and the number of images up to which all of them are tried."""

FEW = 100
"""Images up to which resamples are kept."""


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
    """Return the mean of `values` (n,) with its interval, mean ± c standard errors.

    c is the 95 % quantile of |mean* - mean| / standard error* among 9,999 resamples, a symmetric bootstrap-t
    (Hall 1988), but at least Student's and at most 1.5 times it. A constant sample gives low = high = mean, a
    single value NaN bounds.

    Raises:
        InputError: `values` is empty, not one-dimensional, or holds a value that is not finite.
    """
    return bootstrap_ratio(values, np.ones(len(values)))


def bootstrap_ratio(numerators: Sample, denominators: Sample, widened: float = 1.0) -> Interval:
    """Return sum(numerators) / sum(denominators), both (n,), paired by image.

    The interval is Fieller's (1954): every ratio r for which the mean of numerators - r denominators is
    within c standard errors of 0, c being that of `bootstrap_mean`, times `widened`. It has NaN bounds
    where the denominators' own mean is within c standard errors of 0, since then no finite interval
    covers the ratio; where their sum is 0 the ratio is NaN too.

    Raises:
        InputError: either is empty, not one-dimensional, of another length, or not finite.
    """
    top, bottom = _sorted_pair(numerators, denominators)
    total = math.fsum(bottom)
    if total == 0:
        return Interval(math.nan, math.nan, math.nan, top.size)
    mean = math.fsum(top) / total
    if top.size == 1:
        return Interval(mean, math.nan, math.nan, 1)
    widest = np.argmax(np.abs(bottom))
    if np.array_equal(top, bottom / bottom[widest] * top[widest]):
        return Interval(mean, mean, mean, top.size)
    low, high = ratio_bounds(top[None], bottom[None], widened)
    return Interval(mean, float(low[0]), float(high[0]), top.size)


def ratio_bounds(
    tops: Float64[np.ndarray, "m n"], bottoms: Float64[np.ndarray, "m n"], widened: float = 1.0
) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
    """Return the bounds (m,) of `bootstrap_ratio` for m samples of n >= 2 images, none of them constant."""
    n = tops.shape[1]
    unit, weight = np.abs(tops).max(1), np.abs(bottoms).max(1)
    x, y = tops / unit[:, None], bottoms / weight[:, None]
    mean = y.mean(1)
    ratio = x.mean(1) / mean
    residuals, centered = x - ratio[:, None] * y, y - mean[:, None]
    student = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
    critical = widened * np.clip(_bootstrap_t(residuals), student, MOST_OF_STUDENT * student)
    square = critical**2 / (n * (n - 1))
    both = square * (residuals * centered).sum(1)
    sure = mean**2 - square * (centered**2).sum(1)
    root = np.sqrt(both**2 + np.maximum(sure, 0) * square * (residuals**2).sum(1))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        low, high = (
            np.where(sure > 0, ratio + (sign * root - both) / sure, np.nan) * (unit / weight)
            for sign in (-1, 1)
        )
    return low, high


def share(successes: int, n: int) -> Interval:
    """Return successes / n with the mid-p interval (Lancaster 1961; Berry and Armitage 1995).

    Its bounds are the probabilities of which as many or more (or fewer) successes, those that are as many
    counted half, have 2.5 %.

    Raises:
        InputError: not 0 <= successes <= n, or n is 0.
    """
    if not 0 <= successes <= n or n == 0:
        raise InputError(f"expected 0 <= successes <= n and n >= 1, found {successes} of {n}")
    return Interval(successes / n, _mid_p(successes, n), 1 - _mid_p(n - successes, n), n)


def share_of_clusters(shares: Sample) -> Interval:
    """Return the mean of shares (n,), each in [0, 1] and one a client, with its interval.

    Student's, half a client at 0 and half a one at 1 added: n shares that are all 0 do not say that there
    is no other (after Agresti and Coull 1998, who add two of each to a count).

    Raises:
        InputError: no cluster.
    """
    values = np.sort(np.asarray(shares, dtype=np.float64))
    if values.size == 0:
        raise InputError("expected at least one cluster's share, found none")
    n, mean = values.size, math.fsum(values) / values.size
    center = (math.fsum(values) + 0.5) / (n + 1)
    spread = math.fsum((x - center) ** 2 for x in values) + (center**2 + (1 - center) ** 2) / 2
    reach = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, n)) * math.sqrt(spread / n / (n + 1))
    return Interval(mean, min(mean, max(0.0, center - reach)), max(mean, min(1.0, center + reach)), n)


def paired_test(a: Sample, b: Sample) -> float:
    """Return the two-sided p-value of "a and b, paired by image, have the same mean", in (0, 1].

    A sign-flip permutation test of the mean difference: exact up to 13 images, where the least
    value is 2 / 2^n, and by 10,000 flips beyond, where it is 2 / 10,000. One image gives 1.

    Raises:
        InputError: either is empty, not one-dimensional, of another length, or not finite.
    """
    first, second = _sorted_pair(a, b)
    return float(max_test((first - second)[None])[0])


def max_test(differences: Float64[np.ndarray, "k n"]) -> Float64[np.ndarray, " k"]:
    """Return `paired_test`'s p-value (k,) of each cell's differences, corrected for the k looks.

    The max-statistic test (Westfall and Young 1993): a flip of an image's sign goes to all cells at once,
    and a cell's |sum| / root of the sum of squares is compared with the largest of all cells under every
    flip. It allows for whatever dependence there is between cells. An image that a cell does not have is 0
    there.
    """
    norms: Values = np.sqrt((differences**2).sum(1, keepdims=True))
    rows: Values = differences / np.where(norms > 0, norms, 1)
    rows = rows[:, np.lexsort(rows)]
    greatest = np.abs(_flips(rows.shape[1]) @ rows.T).max(1)
    p_values: Values = (greatest[:, None] >= np.abs(rows.sum(1)) * (1 - ROUNDING)).mean(0)
    return p_values


def _bootstrap_t(residuals: Float64[np.ndarray, "m n"]) -> Float64[np.ndarray, " m"]:
    """Return the 95 % quantile of |mean| / standard error among resamples of residuals that sum to 0.

    Infinite where so many resamples have one value only.
    """
    n, squared = residuals.shape[1], residuals**2
    found = []
    for counts in _resamples(n):
        sums: Values = residuals @ counts.T
        squares: Values = squared @ counts.T
        spread = squares - sums**2 / n
        flat = spread <= ROUNDING * squares
        statistics = np.abs(sums) / np.sqrt(n / (n - 1) * np.where(flat, 1, spread))
        found.append(np.where(flat & (sums != 0), np.inf, statistics))
    rank = math.ceil(CONFIDENCE * (RESAMPLES + 1)) - 1
    sizes: Values = np.partition(np.concatenate(found, axis=1), rank, axis=1)
    return sizes[:, rank]


def _resamples(n: int) -> Iterable[Float64[np.ndarray, "r n"]]:
    """Return how often each of n images is in each resample: always the same ones."""
    return _few_resamples(n) if n <= FEW else _drawn_resamples(n)


@lru_cache(maxsize=8)
def _few_resamples(n: int) -> tuple[Float64[np.ndarray, "r n"], ...]:
    return tuple(_drawn_resamples(n))


def _drawn_resamples(n: int) -> Iterator[Float64[np.ndarray, "r n"]]:
    random = numpy_stream(0, "bootstrap")
    for done in range(0, RESAMPLES, BATCH):
        yield random.multinomial(n, np.full(n, 1 / n), min(BATCH, RESAMPLES - done)).astype(np.float64)


@lru_cache(maxsize=8)
def _flips(n: int) -> Float64[np.ndarray, "r n"]:
    """Return every assignment of signs to n images, beyond `EXACT` as many random ones as are affordable.

    What was observed, and its mirror image, are among them.
    """
    if n > EXACT:
        drawn = numpy_stream(0, "paired test").choice([-1.0, 1.0], (FLIPS - 2, n))
        return np.concatenate([drawn, np.ones((1, n)), -np.ones((1, n))])
    return np.where(np.arange(2**n)[:, None] >> np.arange(n) & 1, -1.0, 1.0)


def _mid_p(successes: int, n: int) -> float:
    """Return the lower mid-p bound."""

    def excess(p: float) -> float:
        more, equal = scipy.stats.binom.sf(successes, n, p), scipy.stats.binom.pmf(successes, n, p)
        return float(more + equal / 2 - (1 - CONFIDENCE) / 2)

    return float(scipy.optimize.brentq(excess, 0, 1, xtol=1e-15)) if successes else 0.0


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
