"""How well predictions order measurements: Spearman's ρ with an interval over images."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from ggl.base.errors import InputError
from ggl.base.random import numpy_stream
from ggl.measures.statistics import CONFIDENCE, RESAMPLES, Interval, Sample

__all__ = ["rank_correlation"]

Values = NDArray[np.float64]

BATCH = 500
"""Resamples whose ranks are computed at once."""


def rank_correlation(
    predicted: Sample, measured: Sample, images: Sequence[int] | NDArray[np.int64]
) -> Interval:
    """Return Spearman's ρ of two figures with its 95 % bootstrap interval over images.

    Images are resampled, each with all its points together, since the points of one image are no
    independent ones: the percentile interval. Ties have their mean rank.

    Args:
        predicted: (m,), a point for each image, level and draw.
        measured: (m,), of the same points.
        images: (m,), the number of each point's image.

    Returns:
        ρ as `mean`, with NaN bounds for one image, or where in some resample a figure has one value only;
        NaN altogether where that is so of the points themselves. `n` counts images.

    Raises:
        InputError: no point, lengths that differ, or a value that is not finite.
    """
    a, b, owners = np.asarray(predicted, np.float64), np.asarray(measured, np.float64), np.asarray(images)
    if a.ndim != 1 or a.shape != b.shape or a.shape != owners.shape or a.size == 0:
        raise InputError(
            "expected predictions, measurements and image numbers of one length of at least 1, "
            f"found the shapes {a.shape}, {b.shape} and {owners.shape}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("expected finite values, found an infinite or undefined one; drop no image silently")
    _, owner = np.unique(owners, return_inverse=True)
    n = int(owner.max()) + 1
    rho = float(_weighted_spearman(a, b, np.ones((1, a.size)))[0])
    if n == 1 or math.isnan(rho):
        return Interval(rho, math.nan, math.nan, n)
    random = numpy_stream(0, "rank correlation")
    found = np.concatenate(
        [
            _weighted_spearman(a, b, random.multinomial(n, np.full(n, 1 / n), size)[:, owner].astype(float))
            for size in _batches(RESAMPLES)
        ]
    )
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return Interval(rho, float(low), float(high), n)


def _batches(total: int) -> list[int]:
    return [min(BATCH, total - done) for done in range(0, total, BATCH)]


def _weighted_spearman(a: Values, b: Values, weights: Float64[np.ndarray, "r m"]) -> Values:
    """Return Spearman's ρ (r,) of the points taken as often as each row of weights says."""
    total = weights.sum(1, keepdims=True)
    x, y = (_weighted_ranks(values, weights) for values in (a, b))
    x, y = (ranks - (weights * ranks).sum(1, keepdims=True) / total for ranks in (x, y))
    spread = np.sqrt((weights * x * x).sum(1) * (weights * y * y).sum(1))
    products = (weights * x * y).sum(1)
    rho: Values = np.divide(products, spread, out=np.full_like(products, np.nan), where=spread > 0)
    return rho.clip(-1, 1)


def _weighted_ranks(values: Values, weights: Float64[np.ndarray, "r m"]) -> Values:
    """Return each point's mean rank (r, m) among all, those of equal value sharing theirs."""
    distinct, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.searchsorted(place[order], np.arange(len(distinct)))
    masses = np.add.reduceat(weights[:, order], starts, axis=1)
    ranks: Values = masses.cumsum(1) - masses + (masses + 1) / 2
    return ranks[:, place]
