"""Which classes are hit harder than the rest: a test that corrects for their number."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray

from ggl.base.errors import InputError
from ggl.base.random import numpy_stream
from ggl.measures.statistics import RESAMPLES

__all__ = ["FEWEST_OF_CLASS", "harder_than_the_rest"]

FEWEST_OF_CLASS = 2
"""Images of a class, and of the rest, below which nothing is said of it."""

BATCH = 500
"""Permutations at once."""

ROUNDING = 1e-9


def harder_than_the_rest(
    hits: Float64[np.ndarray, "measures n"], classes: Int64[np.ndarray, " n"], batch: int = 1
) -> Mapping[int, float]:
    """Return of every class of two images at least the p-value of "it is hit no harder than the rest".

    A permutation test of the largest standardized difference of means over all classes and measures
    (Westfall and Young 1993), one-sided: 9,999 permutations of the images among the classes, of batches
    within each client. So the p-values are corrected for the classes' number; the least is 1 / 10,000.
    Nothing depends on the order of clients.

    Args:
        hits: how hard each image is hit, by every measure the higher the harder.
        classes: of the images.
        batch: images of each client, in a row.

    Raises:
        InputError: no image, no whole batches, or a hit that is not finite.
    """
    n = len(classes)
    if n == 0 or n % batch or not np.isfinite(hits).all():
        raise InputError(
            f"expected finite hits of images in whole batches of {batch}, found {n} images and "
            f"{(~np.isfinite(hits)).sum()} hits that are not finite"
        )
    labels, hits = _in_order(hits, classes, batch)
    known = [c for c in np.unique(labels) if FEWEST_OF_CLASS <= (labels == c).sum() <= n - FEWEST_OF_CLASS]
    if not known:
        return {}
    members = np.stack([(labels == c).astype(np.float64) for c in known])
    centered = hits - hits.mean(axis=1, keepdims=True)
    spread = np.sqrt((centered**2).mean(axis=1, keepdims=True))
    scaled = np.divide(centered, spread, out=np.zeros_like(hits), where=spread > ROUNDING)
    counts = members.sum(axis=1)
    weights = members.T / np.sqrt(counts * (n - counts) / n)
    observed = (scaled @ weights).max(axis=0)
    strata = (1, n) if batch == 1 else (n // batch, batch)
    random, exceeded = numpy_stream(0, "classes"), np.zeros(len(known), dtype=np.int64)
    for done in range(0, RESAMPLES, BATCH):
        size = min(BATCH, RESAMPLES - done)
        order = random.random((size, *strata)).argsort(axis=-1) + np.arange(0, n, strata[1])[:, None]
        drawn = scaled[:, order.reshape(size, n)] @ weights
        largest = drawn.max(axis=(0, 2))
        exceeded += (largest[:, None] >= observed - ROUNDING).sum(axis=0)
    return {int(c): float((1 + k) / (1 + RESAMPLES)) for c, k in zip(known, exceeded, strict=True)}


def _in_order(
    hits: NDArray[np.float64], classes: NDArray[np.int64], batch: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return classes and hits with images in an order of their own, within clients, and clients too."""
    rows = [(int(c), *column) for c, column in zip(classes, hits.T.tolist(), strict=True)]
    clients = sorted(sorted(rows[k : k + batch]) for k in range(0, len(rows), batch))
    ordered = [row for client in clients for row in client]
    return np.array([row[0] for row in ordered]), np.array([row[1:] for row in ordered], np.float64).T
