"""What many looks cost: tests and intervals of all the cells among which the strongest is picked out."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy
from jaxtyping import Float64
from numpy.typing import NDArray

from ggl.base.random import numpy_stream
from ggl.measures.leakage import SIGNIFICANCE, LeakScore, Scores, identification_test
from ggl.measures.statistics import CONFIDENCE, RESAMPLES, max_test

__all__ = ["Correction", "Look", "correct", "widening"]

Values: TypeAlias = NDArray[np.float64]

FEW = 10
"""Clients below which the dependence of cells is not estimated."""


@dataclass(frozen=True)
class Look:
    """One cell among those that are looked at together.

    Attributes:
        leak: its leak score alone.
        scores: the attack's, with ranks.
        clients: names (n,) of the clients in the order of the errors; cells share their clients' names.
    """

    leak: LeakScore
    scores: Scores
    clients: Sequence[Hashable]


@dataclass(frozen=True)
class Correction:
    """What may be said of a cell, whichever of `looks` cells it was picked from.

    Attributes:
        leak: the leak score with the simultaneous interval and the max-statistic's p-value.
        identification_p: of "private images rank first no more often than by chance".
    """

    looks: int
    leak: LeakScore
    identification_p: float

    @property
    def leaks(self) -> bool:
        """Whether the leak score's interval lies above 0 and its p-value below 0.05."""
        return self.leak.leaks

    @property
    def identifies(self) -> bool:
        """Whether private images are picked out more often than by chance."""
        return self.identification_p < SIGNIFICANCE


def correct(looks: Sequence[Look]) -> list[Correction]:
    """Return what may be said of each of several cells after all of them were looked at.

    In at most 5 % of audits that give nothing away does any cell leak, and in at most 5 % does any identify.
    The leak's p-value is `max_test`'s, its interval is `widening` times as wide; identification is
    Bonferroni's for one image a client, `max_test`'s for batches. One look is the cell alone.
    """
    if not looks:
        return []
    alone = np.array([look.leak.p_value for look in looks])
    together = max_test(_matrix(looks, [look.leak.gains for look in looks])) if len(looks) > 1 else alone
    scored = [look for look in looks if not np.isnan(look.leak.interval.mean)]
    clients = min((len(look.leak.gains) for look in scored), default=0)
    widened = widening(_matrix(scored, [_residuals(look.leak) for look in scored]), clients)
    return [
        Correction(len(looks), look.leak.widened(widened, float(p_value)), float(identification_p))
        for look, p_value, identification_p in zip(
            looks, np.maximum(alone, together), _identification(looks), strict=True
        )
    ]


def widening(residuals: Float64[np.ndarray, "k n"], clients: int) -> float:
    """Return by how much k cells' critical values exceed one's, so that all their intervals cover at once.

    The ratio of the 95 % quantile of the largest of k dependent |t| (Hothorn, Bretz and Westfall 2008) to
    Student's, the t being as dependent as the cells' residuals over the n clients. Below `FEW` clients
    correlations of residuals overstate that dependence, and it is Bonferroni's ratio.

    Args:
        residuals: of every cell and client, 0 where a cell has none of a client.
        clients: of the cell that has fewest, which the t's degrees of freedom follow.
    """
    norms: Values = np.sqrt((residuals**2).sum(1, keepdims=True))
    rows = (residuals / np.where(norms > 0, norms, 1))[norms[:, 0] > 0]
    k, n = rows.shape
    if k < 2 or clients < 2:
        return 1.0
    rows = rows[:, np.lexsort(rows)]
    random = numpy_stream(0, "many looks")
    student, most = scipy.stats.t.ppf([(1 + CONFIDENCE) / 2, 1 - (1 - CONFIDENCE) / (2 * k)], clients - 1)
    if clients < FEW:
        return float(most / student)
    spread = np.sqrt(random.chisquare(clients - 1, RESAMPLES) / (clients - 1))
    greatest = np.abs(random.standard_normal((RESAMPLES, n)) @ rows.T).max(1) / spread
    return float(np.clip(np.quantile(greatest, CONFIDENCE), student, most) / student)


def _matrix(looks: Sequence[Look], rows: Sequence[Values]) -> Float64[np.ndarray, "k n"]:
    """Return the rows side by side by client, 0 where a look has none of a client."""
    places = {client: j for j, client in enumerate(dict.fromkeys(c for look in looks for c in look.clients))}
    matrix = np.zeros((len(looks), len(places)))
    for line, look, row in zip(matrix, looks, rows, strict=True):
        line[[places[client] for client in look.clients]] = row
    return matrix


def _residuals(leak: LeakScore) -> Values:
    found: Values = leak.gains - leak.interval.mean * leak.room
    return found


def _identification(looks: Sequence[Look]) -> Values:
    alone = np.array([identification_test(look.scores) for look in looks])
    if len(looks) == 1 or all(look.scores.batch == 1 for look in looks):
        bonferroni: Values = np.minimum(1.0, len(looks) * alone)
        return bonferroni
    rows = [look.scores.per_client(look.scores.ranks == 1) - look.scores.chances() for look in looks]
    together: Values = np.maximum(alone, max_test(_matrix(looks, rows)))
    return together
