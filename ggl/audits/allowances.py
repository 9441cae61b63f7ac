"""What a cell's attacker could do at most by the defense's proof, beside what was measured."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.special import betainc
from torch import Tensor

from ggl.audits.setting import AuditSetting
from ggl.costs.guarantees import Allowance, guarantee, no_allowance
from ggl.defenses import Defense
from ggl.gradients import Gradients
from ggl.measures.leakage import HEADLINE, Scores
from ggl.measures.statistics import share_of_clusters

__all__ = ["EXCESSIVE", "RANKS", "CellAllowance", "cell_allowance", "excess", "mean_most"]

RANKS = {"identification": 1, "identification_top10": 10}
"""What is bounded: how often the private image is among so many candidates nearest to what was found."""

EXCESSIVE = 0.025
"""Probability of a measured rate below which it exceeds a bound: a bound outside the exact 95 % interval."""

BLIND = 0.1
"""Of the candidates of a class, the share that a tolerance leaves within reach of the best single guess."""

CAPTURED = "the update was captured: whether its client did what the defense's name says is not known here"
STATISTICS = "the client's running statistics are observed beside what the defense shares"


@dataclass(frozen=True)
class CellAllowance:
    """What a defense's proof allows whoever is given one gradient as it was shared in an audit.

    Attributes:
        tolerances: of every image (n,), the mean squared error within which no one guess among its decoys
            and their mean lies of `BLIND` of the decoys.
    """

    allowance: Allowance
    tolerances: NDArray[np.float64]

    def to_dict(self, scores: Scores) -> dict[str, object]:
        """Return a cell's `guarantee` in `result.json`, of the attack's scores.

        `exceeded` names the rates whose exact interval lies above what is allowed. `reconstruction` is
        no proof, since its baseline is estimated from decoys, and exceeds nothing.
        """
        found, mechanism = self.allowance, self.allowance.mechanism
        most = {name: mean_most(found, scores, rank) for name, rank in RANKS.items()}
        candidates = scores.decoys + 1
        return {
            "kind": found.kind,
            "reason": found.reason or None,
            "mechanism": mechanism and mechanism.noise,
            "sensitivity": mechanism and mechanism.sensitivity,
            "sensitivity_replace_one": mechanism and 2 * mechanism.sensitivity,
            "noise": mechanism and mechanism.scale,
            "mu": found.mu,
            "epsilon": found.epsilon,
            "rho": found.rho,
            "candidates": [int(candidates.min()), int(candidates.max())],
            "most": most,
            "exceeded": [name for name, rank in RANKS.items() if _above(scores, rank, most[name])],
            "reconstruction": None if found.kind != "formal" else self._reconstruction(scores),
        }

    def _reconstruction(self, scores: Scores) -> dict[str, object]:
        """Return how many images are met within their tolerance, and how many could be.

        Of a batch's reconstructions the nearest counts, so that blind guesses are as many.
        """
        baseline = min(1.0, BLIND * scores.batch)
        within = scores.values[HEADLINE] < self.tolerances
        return {
            "metric": HEADLINE,
            "tolerance": float(self.tolerances.mean()),
            "baseline": baseline,
            "baseline_estimated_from": "decoys",
            "measured": share_of_clusters(scores.per_client(within)).to_dict(),
            "most": self.allowance.most(baseline),
        }


def cell_allowance(audit: AuditSetting, defense: Defense, shared: Gradients) -> CellAllowance:
    """Return what the proof of a defense allows, of one of the gradients that its clients shared."""
    found = _allowance(audit, defense, shared)
    decoys = audit.decoys.images if found.kind == "formal" else []
    return CellAllowance(found, np.array([tolerance(images) for images in decoys]))


def mean_most(allowance: Allowance, scores: Scores, rank: int) -> float | None:
    """Return the largest mean rate, over images, at which any attack ranks the private image within `rank`.

    Each image is one of its own decoys and itself, as likely as any of them.
    """
    found = [allowance.most(min(1.0, rank / (decoys + 1))) for decoys in scores.decoys.tolist()]
    known = [most for most in found if most is not None]
    return math.fsum(known) / len(known) if known else None


def tolerance(decoys: Float[Tensor, "m c h w"]) -> float:
    """Return the least error within which one guess, a decoy or their mean, lies of `BLIND` of the others."""
    images = decoys.flatten(1).double()
    guesses = torch.cat([images, images.mean(0, keepdim=True)])
    errors = torch.cdist(guesses, images).square() / images.shape[1]
    errors[: len(images)].fill_diagonal_(math.inf)
    reached = errors.sort(1).values[:, math.ceil(BLIND * len(images)) - 1]
    return float(reached.min())


def _allowance(audit: AuditSetting, defense: Defense, shared: Gradients) -> Allowance:
    clients = audit.clients
    if clients.captured is not None:
        return no_allowance(defense, CAPTURED)
    if clients.statistics is not False:
        return no_allowance(defense, STATISTICS)
    return guarantee(
        defense,
        layers=len(shared),
        coordinates=sum(g.numel() for g in shared.values()),
        batch_size=clients.batch_size,
        round=clients.round,
        rounds=clients.rounds,
    )


def excess(shares: Sequence[float] | NDArray[np.float64], most: float) -> float:
    """Return the probability of a mean of `shares` (n,), in [0, 1], or more, where it is `most` on average.

    Of a binomial draw, I_most(k, n - k + 1) with k their sum; shares and unlike rates scatter less
    (Hoeffding, 1956). A bound is a proof, and chance must hardly ever seem to break it: intervals that cover
    in 95 % of audits on average are not enough.
    """
    k, n = math.fsum(shares), len(shares)
    return float(betainc(k, n - k + 1, most)) if k > 0 else 1.0


def _above(scores: Scores, rank: int, most: float | None) -> bool:
    shares = scores.per_client(scores.ranks <= rank)
    return most is not None and excess(shares, most) < EXCESSIVE
