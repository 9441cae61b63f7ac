"""Intervals that stand beside the ones in use in `coverage.py`: Student's, and what was used before."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm  # type: ignore[attr-defined]
from scipy.stats import t as student_t  # type: ignore[attr-defined]

__all__ = ["FORMER_RESAMPLES", "Bounds", "Values", "bca", "student", "wilson"]

Values: TypeAlias = NDArray[np.float64]
Bounds: TypeAlias = tuple[Values, Values]

FORMER_RESAMPLES = 999


def bca(tops: Values, bottoms: Values, random: np.random.Generator) -> Bounds:
    """Return the bounds (m,) of Efron's BCa interval of m ratios of sums, of values (m, n) each."""
    n = tops.shape[1]
    counts = random.multinomial(n, np.full(n, 1 / n), FORMER_RESAMPLES).astype(float)
    ratio = tops.sum(1) / bottoms.sum(1)
    found = np.sort((tops @ counts.T) / (bottoms @ counts.T), axis=1)
    below = ((found < ratio[:, None]).mean(1) + (found <= ratio[:, None]).mean(1)) / 2
    without = (tops.sum(1)[:, None] - tops) / (bottoms.sum(1)[:, None] - bottoms)
    gaps = without.mean(1, keepdims=True) - without
    bias, skew = norm.ppf(below), (gaps**3).sum(1) / (6 * (gaps**2).sum(1) ** 1.5)
    bounds = []
    for tail in (0.025, 0.975):
        shifted = bias + norm.ppf(tail)
        place = norm.cdf(bias + shifted / (1 - skew * shifted)) * (FORMER_RESAMPLES - 1)
        low = np.floor(np.nan_to_num(place)).astype(int)
        high = np.minimum(low + 1, FORMER_RESAMPLES - 1)
        rows = np.arange(len(found))
        bounds.append(found[rows, low] + (place - low) * (found[rows, high] - found[rows, low]))
    return bounds[0], bounds[1]


def student(tops: Values, bottoms: Values) -> Bounds:
    """Return Fieller's bounds with Student's quantile; of means (denominators 1) Student's."""
    n = tops.shape[1]
    square = student_t.ppf(0.975, n - 1) ** 2 / n
    x, y = tops.mean(1), bottoms.mean(1)
    xx, yy = tops.var(1, ddof=1), bottoms.var(1, ddof=1)
    xy = ((tops - x[:, None]) * (bottoms - y[:, None])).sum(1) / (n - 1)
    a, b, c = y**2 - square * yy, x * y - square * xy, x**2 - square * xx
    root = np.sqrt(np.maximum(b**2 - a * c, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = (np.where(a > 0, (b + sign * root) / a, np.nan) for sign in (-1, 1))
    return low, high


def wilson(mean: Values, n: int) -> Bounds:
    """Return Wilson's bounds of shares of n draws."""
    z2 = norm.ppf(0.975) ** 2
    center = (mean + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (mean * (1 - mean) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return center - half, center + half
