"""The share card of an audit's report: its verdict, a grid of pictures and the settings in one PNG."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ggl.audits.findings import Findings
from ggl.audits.verdicts import strength
from ggl.base.words import listed
from ggl.pages.card import MOST_PICTURES, Card, CardRow, Tone
from ggl.pages.templates import fixed

__all__ = ["MOST_DEFENSES", "card_of", "headline", "settings_line"]

Json: TypeAlias = Mapping[str, Any]

MOST_DEFENSES = 4
"""Rows of attacks on a card: where there are more defenses, those that leak most."""

MOST_NAMED = 3
"""Defenses that the headline names of each verdict."""

CLAUSES = {
    "leaks": "shared gradients leak under",
    "identifies": "they identify private images under",
    "no leak shown": "no leak was shown under",
    "undecided": "there is no verdict on",
    "withheld": "every verdict is withheld, since the private images do not make the captured update, on",
}
"""How the headline begins each verdict's list of defenses."""

MARKS: dict[str, tuple[str, Tone]] = {
    "leaks": ("▲", "alarm"),
    "identifies": ("◆", "alarm"),
    "no leak shown": ("○", "calm"),
    "undecided": ("?", "soft"),
    "withheld": ("—", "soft"),
}

NOTE = (
    "Leak score 0: what the class alone gives away. 1: all that the prior can say. "
    "A convincing picture alone is no leak: the control's are convincing too."
)

FOLDER = re.compile(r"[^:,=]*[/\\]")


def card_of(report: Findings, result: Json) -> Card:
    """Return the card of a report and its `to_dict()`; it shows no picture that the page does not."""
    shown = min(len(report.images), MOST_PICTURES)
    entries = _strongest(result["worst_case"])
    numbers = [_number(result["results"], entry) for entry in entries]
    attacks = [
        _attack(entry, report.cells[k].images["private"][:shown])
        for entry, k in zip(entries, numbers, strict=True)
    ]
    control = report.cells[numbers[0]].images["sibling"][:shown]
    return Card(
        kind="ggl · gradient leakage audit",
        headline=headline(result["worst_case"]),
        below=_people(result["worst_case"]),
        heads=("attack under", "verdict", "leak score [95 %]"),
        columns=[f"image {i}" for i in range(shown)],
        rows=[
            CardRow("private image", list(report.images[:shown]), "the first ones, not chosen by result"),
            *attacks,
            CardRow("control", list(control), f"another image's gradient, under {entries[0]['defense']}"),
            CardRow("ceiling", list(report.ceiling_images[:shown]), "the most that the prior can show"),
        ],
        note=NOTE,
        settings=settings_line(result, [cell["strategy"] for cell in result["results"]]),
    )


def headline(worst: Sequence[Json]) -> str:
    """Return what leaks under which defense, in words, by each defense's strongest attack."""
    found = {
        clause: [entry["defense"] for entry in worst if entry["corrected"]["verdict"] == verdict]
        for verdict, clause in CLAUSES.items()
    }
    if not found[CLAUSES["leaks"]]:
        found = {
            clause.replace("they identify", "shared gradients identify"): d for clause, d in found.items()
        }
    said = "; ".join(f"{clause} {_shortened(defenses)}" for clause, defenses in found.items() if defenses)
    return f"{said[0].upper()}{said[1:]}."


def settings_line(result: Json, strategies: Sequence[str]) -> str:
    """Return what the figures were measured with: no folder of this machine is named."""
    settings = {key: FOLDER.sub("", x) if isinstance(x, str) else x for key, x in result["settings"].items()}
    images, batch = settings.get("images"), settings.get("batch_size", 1)
    parts = [
        f"victim {settings['victim']}",
        f"prior {settings['prior']}",
        f"data {settings['data']}" if settings.get("data") else "",
        f"strategy {_shortened([FOLDER.sub('', name) for name in dict.fromkeys(strategies)])}",
        f"{settings['budget']:,} evaluations a search",
        "" if images is None else "1 image" if images == 1 else f"{images} images",
        f"{batch} a gradient" if batch != 1 else "",
        f"seed {settings['seed']}",
        f"ggl {result['versions']['ggl']}",
    ]
    return " · ".join(filter(None, parts))


def _strongest(worst: Sequence[Json]) -> list[Json]:
    """Return the defenses that are shown, in the order audited."""
    by_strength = sorted(
        worst,
        key=lambda entry: strength(
            entry["corrected"]["verdict"], entry["verdict"], entry["leak_score"]["mean"]
        ),
        reverse=True,
    )
    kept = by_strength[:MOST_DEFENSES]
    return [entry for entry in worst if any(entry is other for other in kept)]


def _number(results: Sequence[Json], entry: Json) -> int:
    """Return the number of the cell behind a defense's worst case."""
    keys = ("defense", "attacker", "strategy", "rung")
    return next(k for k, cell in enumerate(results) if all(cell.get(key) == entry.get(key) for key in keys))


def _attack(entry: Json, pictures: Any) -> CardRow:
    """Return the row of a defense under its strongest attack."""
    verdict, score = entry["corrected"]["verdict"], entry["corrected"]
    mark, tone = MARKS[verdict]
    bounds = (
        "undefined"
        if None in (score["low"], score["high"])
        else ", ".join(fixed(score[key], 2) for key in ("low", "high"))
    )
    return CardRow(
        entry["defense"],
        list(pictures),
        f"{mark} {verdict}",
        "" if verdict == "withheld" else f"{fixed(score['mean'], 2)} [{bounds}]",
        tone,
        name=True,
    )


def _people(worst: Sequence[Json]) -> str:
    """Return how many people are recognizable at worst, and under which defense."""
    known = [entry for entry in worst if entry.get("people") is not None]
    if not known:
        return ""
    entry = max(known, key=lambda entry: entry["people"]["at_least"])
    said = entry["people"]["said"]
    under = f" under {entry['defense']}" if entry["people"]["at_least"] or len(worst) == 1 else ""
    return f"{said[0].upper()}{said[1:]}{under}."


def _shortened(names: Sequence[str]) -> str:
    """Return names in words, the first of them where there are many."""
    if len(names) <= MOST_NAMED + 1:
        return listed(names)
    return listed([*names[:MOST_NAMED], f"{len(names) - MOST_NAMED} more"])
