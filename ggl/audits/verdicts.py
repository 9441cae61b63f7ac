"""What figures allow to be said of a cell: alone, and after all the cells beside it were looked at."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from ggl.measures.leakage import LeakScore, Scores, identifies
from ggl.measures.many_looks import Correction, Look, correct

__all__ = [
    "FEWEST_IMAGES",
    "Verdict",
    "corrected_verdict",
    "corrections",
    "find_verdict",
    "withheld_correction",
]

Verdict: TypeAlias = Literal["leaks", "identifies", "no leak shown", "undecided", "withheld"]
"""Leaks: the leak score's test. Identifies: that test fails, but private images are picked out from their
decoys more often than by chance. Undecided: the leak score has no interval, or too few images. Withheld: the
images do not make the captured update."""

FEWEST_IMAGES = 6
"""Or batches. Below it the paired test's least p-value, 2 / 2ⁿ, is above 0.05: no leak could be shown."""

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
