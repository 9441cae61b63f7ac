"""How well predictions order measurements: Spearman's ρ with an interval over images."""

import math
from collections.abc import Sequence

import numpy as np
import scipy
from jaxtyping import Float64
from numpy.typing import NDArray

from ggl.base.errors import InputError
from ggl.measures.statistics import CONFIDENCE, Interval, Sample

__all__ = ["rank_correlation", "weighted_spearman"]

Values = NDArray[np.float64]

FEWEST = 3
"""Images: of two, each alone makes one order."""


def rank_correlation(
    predicted: Sample, measured: Sample, images: Sequence[int] | NDArray[np.int64]
) -> Interval:
    """Return Spearman's ρ of two figures with its 95 % interval over images.

    Images are left out one by one, each with all its points together, since the points of one image are
    no independent ones: the jackknife of Fisher's z = artanh ρ (Miller 1974) with Student's quantile. A |ρ|
    above that of one half-swap, 1 - 6 / (m³ - m), counts as that: z would be infinite. Ties have their
    mean rank.

    Args:
        predicted: (m,), a point for each image, level and draw.
        measured: (m,), of the same points.
        images: (m,), the number of each point's image.

    Returns:
        ρ as `mean`, with NaN bounds for fewer than three images, or where a figure has one value only
        without some image; NaN altogether where that is so of the points themselves. `n` counts images.

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
    rho = float(weighted_spearman(a, b, np.ones((1, a.size)))[0])
    if n < FEWEST or math.isnan(rho):
        return Interval(rho, math.nan, math.nan, n)
    without = weighted_spearman(a, b, (owner != np.arange(n)[:, None]).astype(float))
    most = 1 - 6 / (a.size**3 - a.size)
    z, others = np.arctanh(np.clip(rho, -most, most)), np.arctanh(without.clip(-most, most))
    pseudo = n * z - (n - 1) * others
    reach = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * pseudo.std(ddof=1) / math.sqrt(n)
    low, high = np.tanh([z - reach, z + reach])
    return Interval(rho, min(rho, float(low)), max(rho, float(high)), n)


def weighted_spearman(a: Values, b: Values, weights: Float64[np.ndarray, "r m"]) -> Values:
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
