"""Each person, not the mean: who is recognizable, and how many images have a high leak score of their own.

Counts are of images; what is said at 95 % is over clients, since images of one gradient are no independent
sample. Nothing depends on the order in which clients come.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Bool, Float64
from numpy.typing import NDArray

from ggl.base.errors import InputError
from ggl.measures.leakage import SIGNIFICANCE, Scores
from ggl.measures.statistics import Interval, share, share_of_clusters

__all__ = [
    "Recognizable",
    "at_least",
    "harder_at_most",
    "own_scores",
    "picked_out",
    "recognizable",
    "risk_at_most",
    "share_above",
    "worst_image",
]

PerImage = Float64[np.ndarray, " n"]
Which = Bool[np.ndarray, " n"]


@dataclass(frozen=True)
class Recognizable:
    """How many of n images are shown to be recognizable, and how sure that is.

    Attributes:
        picked: how many are picked out; chance alone gives `expected` of them.
        p_values: of "fewer than k are recognizable", for k = 1 to `picked`; they never fall.
    """

    picked: int
    n: int
    expected: float
    p_values: tuple[float, ...]

    def at_least(self, looks: int = 1) -> int:
        """Return the number of `at_least`, by one of so many attacks."""
        return at_least(self.p_values, looks)

    @property
    def p_value_of_each(self) -> float:
        """Return the p-value that each picked one may claim by name, corrected for all n; 1 without any."""
        return self.p_values[-1] if self.p_values else 1.0


def at_least(p_values: Sequence[float], looks: int = 1) -> int:
    """Return the number that is exceeded or met with 95 % confidence, by the p-values of "fewer than k".

    An attack that is chosen among several `looks` is held to 0.05 / `looks` (Bonferroni), whatever these have
    in common.
    """
    return sum(looks * p <= SIGNIFICANCE for p in p_values)


def picked_out(attack: Scores, controls: Mapping[str, Scores]) -> Which:
    """Return which images rank first among their decoys by the attack and by no control.

    A control knows nothing of the image. One that it ranks first too, being blurred or near its class's mean,
    is first whatever the gradient says.
    """
    by_control = [scores.ranks == 1 for scores in controls.values()]
    picked: Which = (attack.ranks == 1) & ~np.any([np.zeros(len(attack.ranks), bool), *by_control], axis=0)
    return picked


def recognizable(picked: Which, chance: PerImage, batch: int = 1) -> Recognizable:
    """Return how many images are recognizable at least, by closed testing over clients.

    An image is recognizable if its gradient tells it from its decoys; one that is not is picked out with
    probability `chance`, 1 / (decoys + 1), at most. Images that are not recognizable are tested together by
    the number of clients with a picked one: a sum of independent trials, each of probability Σ `chance` over
    the client's images at most. "Fewer than k" has the largest p-value of all sets of more than n - k images
    (Goeman and Solari 2011; Benjamini and Heller 2008), whatever images of one client have in common.

    Examples:
        >>> found = recognizable(np.array([True] * 7 + [False] * 3), np.full(10, 0.01))
        >>> found.at_least(), found.at_least(looks=2)
        (7, 6)

    Args:
        picked: (n,), as of `picked_out`.
        chance: (n,), in (0, 1].
        batch: images of each client, in a row.

    Raises:
        InputError: no image, no whole batches, or a chance outside (0, 1].
    """
    _check(picked, chance, batch)
    rows, odds = picked.reshape(-1, batch), chance.reshape(-1, batch)
    found, hit = rows.sum(axis=1), rows.any(axis=1)
    others, kept = _sums(odds[~hit]), _sums(odds[hit])[::-1]
    rest = _sums(np.where(rows, 0.0, odds)[hit])[::-1]
    left_out = [0, *np.sort(found[hit]).cumsum().tolist()]
    tails = [
        (left_out[len(kept) - j], _tail([*others, *kept[:j], *rest[: len(kept) - j]], j))
        for j in range(1, len(kept) + 1)
    ]
    p_values = [max(p for out, p in tails if out < k) for k in range(1, int(found.sum()) + 1)]
    return Recognizable(int(found.sum()), picked.size, math.fsum(np.sort(chance)), tuple(p_values))


def _sums(odds: NDArray[np.float64]) -> list[float]:
    """Return every client's probability of a picked image, (clients, images) summed, in ascending order."""
    return sorted(min(1.0, math.fsum(np.sort(row))) for row in odds)


def _tail(odds: Sequence[float], least: int) -> float:
    """Return the probability that at least so many of independent trials succeed."""
    fewer = np.zeros(least)
    fewer[0] = 1.0
    for p in odds:
        fewer[1:] = fewer[1:] * (1 - p) + fewer[:-1] * p
        fewer[0] *= 1 - p
    return max(0.0, 1 - math.fsum(fewer))


def own_scores(attack: PerImage, control: PerImage, ceiling: PerImage) -> PerImage:
    """Return every image's own leak score, (control - attack) / (control - ceiling), of errors (n,) each.

    NaN where the ceiling is no better than the control: the prior can say no more of that image than the
    class alone does. Weighted by control - ceiling, their mean is the leak score of all, a ratio of sums, as
    far as every image has one.

    Examples:
        >>> own_scores(np.array([0.25, 0.3]), np.array([0.5, 0.3]), np.array([0.0, 0.3])).tolist()
        [0.5, nan]
    """
    room = control - ceiling
    scores: PerImage = np.divide(control - attack, room, out=np.full_like(room, np.nan), where=room > 0)
    return scores


def share_above(scores: PerImage, threshold: float, batch: int = 1) -> Interval:
    """Return the share of images whose own leak score is above a threshold, with the interval of `share`.

    Images without a score count as not above in the share and its lower bound, and as above in the upper one.
    """
    above = _share(scores > threshold, batch)
    return Interval(above.mean, above.low, _share(~(scores <= threshold), batch).high, above.n)


def risk_at_most(hit: Which, batch: int = 1) -> float:
    """Return the 95 % upper confidence bound on the risk that a client's image, drawn at random, is hit.

    Clopper and Pearson (1934), one-sided. Of batches: of the clients' shares, their sum rounded up, at
    97.5 %, which is 95 % at least for shares of any distribution.
    """
    shares = hit.reshape(-1, batch).mean(axis=1)
    n, found = len(shares), math.ceil(round(math.fsum(np.sort(shares)), 9))
    level = SIGNIFICANCE if batch == 1 else SIGNIFICANCE / 2
    return 1.0 if found >= n else _upper(found, n, level)


def _upper(found: int, n: int, level: float) -> float:
    quantile = scipy.stats.beta.ppf(1 - level, found + 1, n - found)
    return float(quantile)


def harder_at_most(clients: int) -> float:
    """Return which share of all clients has an image that is hit harder than the worst of `clients` measured.

    At most, with 95 % confidence: 1 - 0.05^(1/n), whatever the distribution (Wilks 1941).
    """
    return float(1 - SIGNIFICANCE ** (1 / clients))


def worst_image(picked: Which, scores: PerImage, psnr: PerImage) -> int:
    """Return the number of the image that is hit hardest.

    One that is picked out comes before one that is not, then a higher leak score of its own (at most 1, since
    small denominators make large ones; one without a score last), then a higher PSNR.
    """
    capped = np.where(np.isnan(scores), -np.inf, np.minimum(scores, 1.0))
    return int(np.lexsort((psnr, capped, picked))[-1])


def _share(found: Which, batch: int) -> Interval:
    if batch == 1:
        return share(int(found.sum()), len(found))
    return share_of_clusters(found.reshape(-1, batch).mean(axis=1))


def _check(picked: Which, chance: PerImage, batch: int) -> None:
    if picked.size == 0 or batch < 1 or picked.size % batch:
        raise InputError(f"expected images in whole batches of {batch}, found {picked.size} images")
    if not ((chance > 0) & (chance <= 1)).all():
        raise InputError("expected chances in (0, 1], 1 / (decoys + 1), found another")
