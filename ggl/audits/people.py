"""Whom a cell hits: what `result.json` and the first screen say of each person, not of the mean.

One client is one person. Where every client has one image, images are people; of batches images are counted.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggl.measures.classes import FEWEST_OF_CLASS, harder_than_the_rest
from ggl.measures.leakage import HEADLINE, SIGNIFICANCE, Scores
from ggl.measures.people import (
    Recognizable,
    at_least,
    harder_at_most,
    own_scores,
    picked_out,
    recognizable,
    risk_at_most,
    share_above,
    worst_image,
)
from ggl.measures.statistics import finite_or_none

__all__ = ["THRESHOLDS", "people_of", "recognizable_people", "worst_people"]

THRESHOLDS = (0.25, 0.5)
"""Own leak scores above which images are counted; the risk is that of the last."""

ATTACKED = ("sibling", "noise")
"""Controls that an attack made: their shares above a threshold are what chance gives."""


def people_of(
    attack: Scores,
    controls: Mapping[str, Scores],
    reference: str,
    ceiling: Scores,
    labels: Sequence[int],
    groups: Sequence[str] | None = None,
) -> dict[str, object]:
    """Return the figures of a cell's images, each by itself.

    Args:
        attack: on the private images.
        controls: beside it.
        reference: the control that own leak scores are relative to: the cell's strongest.
        ceiling: of the same images.
        labels: (n,), theirs.
        groups: (n,), of another attribute of theirs.
    """
    zero, one = controls[reference].values[HEADLINE], ceiling.values[HEADLINE]
    own = own_scores(attack.values[HEADLINE], zero, one)
    picked = picked_out(attack, controls)
    found, said = recognizable_people(attack, controls)
    worst = worst_image(picked, own, attack.values["psnr"])
    by_chance = {
        name: own_scores(controls[name].values[HEADLINE], zero, one)
        for name in ATTACKED
        if name in controls and name != reference
    }
    return {
        "recognizable": said,
        "worst_image": {
            "image": worst,
            "label": labels[worst],
            "leak_score": finite_or_none(own[worst]),
            "psnr": float(attack.values["psnr"][worst]),
            "rank": int(attack.ranks[worst]),
            "picked_out": bool(picked[worst]),
            "p_value": found.p_value_of_each if picked[worst] else 1.0,
            "harder_at_most": harder_at_most(attack.clients),
        },
        "leak_scores": [finite_or_none(score) for score in own],
        "undefined": int(np.isnan(own).sum()),
        "above": [
            {
                "leak_score": threshold,
                "share": share_above(own, threshold, attack.batch).to_dict(),
                "controls": {
                    name: share_above(scores, threshold, attack.batch).to_dict()
                    for name, scores in by_chance.items()
                },
            }
            for threshold in THRESHOLDS
        ],
        "risk_at_most": {
            "identified": risk_at_most(attack.ranks == 1, attack.batch),
            f"leak_score_above_{THRESHOLDS[-1]:g}": risk_at_most(~(own <= THRESHOLDS[-1]), attack.batch),
        },
        "classes": _compared("label", labels, attack, zero, one, own),
        "groups": None if groups is None else _compared("group", groups, attack, zero, one, own),
    }


def worst_people(cells: Sequence[Mapping[str, Any]]) -> dict[str, object] | None:
    """Return what the attack that recognizes most says of one defense; None where that is withheld.

    It is chosen among all of the defense's cells, of `AuditCell.to_dict`, and corrected for their number.
    """
    if any(cell["people"] is None for cell in cells):
        return None
    looks = len(cells)
    found = [
        {
            "attacker": cell["attacker"],
            "strategy": cell["strategy"],
            **cell["people"]["recognizable"],
            "at_least": at_least(cell["people"]["recognizable"]["p_values"], looks),
            "looks": looks,
        }
        for cell in cells
    ]
    most = max(found, key=lambda people: (people["at_least"], people["picked_out"]))
    del most["p_values"]
    return {**most, **_words(most)}


def recognizable_people(
    attack: Scores, controls: Mapping[str, Scores], seeds: int = 1
) -> tuple[Recognizable, dict[str, object]]:
    """Return how many are recognizable, and what a cell says of that.

    A rank that is the median over several `seeds` is first by chance at most twice as often as one rank is.
    """
    candidates = attack.decoys + 1
    chance = np.minimum(min(seeds, 2) / candidates, 1.0)
    found = recognizable(picked_out(attack, controls), chance, attack.batch)
    figures = {
        "at_least": found.at_least(),
        "of": found.n,
        "unit": "people" if attack.batch == 1 else "images",
        "rank_first": int((attack.ranks == 1).sum()),
        "picked_out": found.picked,
        "by_chance": found.expected,
        "among": [int(candidates.min()), int(candidates.max())],
        "looks": 1,
        "p_values": list(found.p_values),
    }
    return found, {**figures, **_words(figures)}


def _words(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the sentence of the first screen, and what it rests on."""
    least, most = found["among"]
    among = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    one = {"people": "person", "images": "image"}[found["unit"]]
    first, picked = found["rank_first"], found["picked_out"]
    alone = f", {'and' if first == picked else f'{picked} of them'} to no control" if first else ""
    rests_on = (
        f"{first or 'none'} rank{'s' * (first < 2)} first among {among} images of the class{alone}; "
        f"chance gives {found['by_chance']:.2g}"
    )
    if found["at_least"] == 0:
        return {"said": f"no {one} is shown to be recognizable", "rests_on": rests_on}
    verb = "is" if found["at_least"] == 1 else "are"
    said = f"at least {found['at_least']} of {found['of']} {found['unit']} {verb} recognizable"
    return {"said": said, "rests_on": rests_on}


def _compared(
    name: str,
    members: Sequence[int] | Sequence[str],
    attack: Scores,
    zero: NDArray[np.float64],
    one: NDArray[np.float64],
    own: NDArray[np.float64],
) -> list[dict[str, object]]:
    """Return every class's or group's figures, and whether it is hit harder than the rest.

    How hard an image is hit: its own leak score, brought into [0, 1] and 0 where it has none; and the share
    of its decoys that lie further off than it does.
    """
    hits = np.stack([np.nan_to_num(own, nan=0.0).clip(0, 1), 1 - (attack.ranks - 1) / attack.decoys])
    known, place = np.unique(np.asarray(members), return_inverse=True)
    p_values = harder_than_the_rest(hits, place.astype(np.int64), attack.batch)
    return [
        {
            name: one_of_them,
            "images": int(rows.sum()),
            "leak_score": _ratio(zero[rows] - attack.values[HEADLINE][rows], zero[rows] - one[rows]),
            "identified": int((attack.ranks[rows] == 1).sum()),
            "p_value": p_values.get(k),
            "hit_harder": p_values.get(k, 1.0) < SIGNIFICANCE,
            "too_few": bool(rows.sum() < FEWEST_OF_CLASS),
        }
        for k, one_of_them in enumerate(known.tolist())
        for rows in [place == k]
    ]


def _ratio(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> float | None:
    return float(top.sum() / bottom.sum()) if bottom.sum() > 0 else None
