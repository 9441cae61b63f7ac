"""What figures allow to be said of a cell, alone and after all those beside it were looked at; the worst."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from ggl.measures.leakage import LeakScore, Scores, identifies
from ggl.measures.many_looks import Correction, Look, correct

__all__ = [
    "FEWEST_IMAGES",
    "HEADLINES",
    "Verdict",
    "corrected_verdict",
    "corrections",
    "find_verdict",
    "judged",
    "strength",
    "withheld_correction",
    "worst_case",
]

Verdict: TypeAlias = Literal["leaks", "identifies", "no leak shown", "undecided", "withheld"]
"""Leaks: the leak score's test. Identifies: that test fails, but private images are picked out from their
decoys more often than by chance. Undecided: the leak score has no interval, or too few images. Withheld: the
images do not make the captured update."""

FEWEST_IMAGES = 6
"""Or batches. Below it the paired test's least p-value, 2 / 2ⁿ, is above 0.05: no leak could be shown."""

STRENGTH = {"leaks": 2, "identifies": 1}
"""Of what an attack shows; a higher leak score decides between equals."""


HEADLINES = (
    "defense",
    "attacker",
    "strategy",
    "verdict",
    "leak_score",
    "identification",
    "psnr",
    "corrected",
)
"""What a defense's worst case says of its cell, beside the rung of a ladder's."""

METHOD = "max-statistic sign flips and simultaneous intervals; identification: Bonferroni, batches sign flips"
"""How figures are corrected for the number of cells; see `ggl.measures.many_looks`."""


def find_verdict(leak: LeakScore, scores: Scores) -> Verdict:
    """Return what the figures allow to be said, the strongest statement first."""
    return _verdict(leak, identifies(scores), scores)


def corrected_verdict(found: Correction, scores: Scores) -> Verdict:
    """Return what may be said of a cell, whichever of the cells that were looked at it is."""
    return _verdict(found.leak, found.identifies, scores)


def _verdict(leak: LeakScore, identified: bool, scores: Scores) -> Verdict:
    if leak.leaks:
        return "leaks"
    if identified:
        return "identifies"
    few = scores.clients < FEWEST_IMAGES
    return "undecided" if few or np.isnan(leak.interval.low) else "no leak shown"


def corrections(looks: Sequence[tuple[str, Look]]) -> list[dict[str, object]]:
    """Return, for JSON, what may be said of every cell, given as its defense and what there is to look at.

    First after all cells of its defense were looked at, which is what the defense's worst case needs; under
    "table" after all of them were.
    """
    table = correct([look for _, look in looks])
    own: dict[int, Correction] = {}
    for name in dict.fromkeys(defense for defense, _ in looks):
        places = [k for k, (defense, _) in enumerate(looks) if defense == name]
        own |= zip(places, correct([looks[k][1] for k in places]), strict=True)
    return [
        {**_said(own[k], look), "method": METHOD, "table": _said(table[k], look)}
        for k, (_, look) in enumerate(looks)
    ]


def worst_case(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the headline of every defense, in the order audited: its strongest cell.

    That is, of the cells that leak, if any, then of those that identify, then of the others, the one with
    the highest leak score; what is corrected for the number of cells comes before what a cell shows alone.

    Args:
        results: cells as of `AuditCell.to_dict`, "corrected" or not; those of one defense have one name.
    """
    strongest: dict[str, Mapping[str, Any]] = {}
    for cell in judged(results):
        known = strongest.setdefault(cell["defense"], cell)
        if _strength(cell) > _strength(known):
            strongest[cell["defense"]] = cell
    return [{key: cell[key] for key in (*HEADLINES, "rung") if key in cell} for cell in strongest.values()]


def _strength(cell: Mapping[str, Any]) -> tuple[int, int, float]:
    corrected = cell.get("corrected", cell)["verdict"]
    return strength(corrected, cell["verdict"], cell["leak_score"]["mean"])


def strength(corrected: str, alone: str, mean: float | None) -> tuple[int, int, float]:
    """Return what orders attacks on one defense: those that leak, those that identify, the score.

    By the verdict that is corrected for the number of attacks, then by each attack's own.
    """
    return STRENGTH.get(corrected, 0), STRENGTH.get(alone, 0), -math.inf if mean is None else mean


def judged(results: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the cells that count against a defense: all but the diagnostic rungs of a ladder."""
    return [cell for cell in results if cell.get("kind") != "diagnostic"]


def withheld_correction(corrected: Mapping[str, Any]) -> dict[str, Any]:
    """Return a correction that says nothing of a leak."""
    kept = ("looks", "method", "n", "control")
    found = {key: value if key in kept else None for key, value in corrected.items()}
    if "table" in corrected:
        found["table"] = withheld_correction(corrected["table"])
    return {**found, "verdict": "withheld"}


def _said(found: Correction, look: Look) -> dict[str, object]:
    return {
        "looks": found.looks,
        **found.leak.to_dict(),
        "identification_p_value": found.identification_p,
        "leaks": found.leaks,
        "identifies": found.identifies,
        "verdict": corrected_verdict(found, look.scores),
    }
