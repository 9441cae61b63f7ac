"""The share card of a captured update whose images nobody knows: how well it is matched, no leak score."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from ggl.audits.card import settings_line
from ggl.pages.card import MOST_PICTURES, Card, CardRow, Tone
from ggl.pages.templates import fixed

__all__ = ["card_of", "headline"]

Json: TypeAlias = Mapping[str, Any]

MOST_CONTROLS = 2
"""Rows of controls on a card, and of noise as many."""

NOTE = (
    "No leak score: without the private images nobody can say how near the pictures are to them. "
    "Match: the distance of gradients, 0 where equal."
)


def card_of(result: Json, pictures: Sequence[Tensor]) -> Card:
    """Return the card of `Reconstruction.to_dict()` and each update's reconstructions (n, c, h, w)."""
    shown = min(len(pictures[0]), MOST_PICTURES)
    kept = _kept([str(row["update"]) for row in result["updates"]])
    return Card(
        kind="ggl · audit of a captured update",
        headline=headline(result),
        below=_gap(result),
        heads=("attack on", "stands out?", "match to the captured"),
        columns=[f"image {i}" for i in range(shown)],
        rows=[_row(result["updates"][k], list(pictures[k][:shown]), result["stands_out"]) for k in kept],
        note=NOTE,
        settings=settings_line(result, [str(result["settings"]["strategy"])]),
    )


def headline(result: Json) -> str:
    """Return what the update gives away, in words."""
    if result["settings_doubtful"]:
        return (
            "The settings may not be the client's: every control is matched better than the captured update."
        )
    if result["stands_out"]:
        return "The captured update says more of its images than their labels."
    return "Nothing was found in the captured update beyond its labels."


def _gap(result: Json) -> str:
    gap = result["control_gap"]
    bounds = ", ".join(fixed(gap[key], 4) for key in ("low", "high"))
    return f"Gap to the controls' matches: {fixed(gap['mean'], 4)} [{bounds}]."


def _kept(titles: Sequence[str]) -> list[int]:
    """Return the numbers of the updates that are shown: the captured one, the first controls and noises."""
    groups = [[k for k, title in enumerate(titles) if title.startswith(s)] for s in ("control", "noise")]
    return [0, *(k for group in groups for k in group[:MOST_CONTROLS])]


def _row(update: Json, pictures: list[Tensor], stands_out: bool) -> CardRow:
    title, match = str(update["update"]), fixed(update["match_to_captured"], 4)
    if title != "captured":
        return CardRow(title, pictures, "other images" if title.startswith("control") else "no image", match)
    said: tuple[str, Tone] = ("▲ yes", "alarm") if stands_out else ("○ no", "calm")
    return CardRow("captured", pictures, said[0], match, said[1])
