"""The report as one self-contained HTML page."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from ggl.audits.figures import draw_convergence
from ggl.audits.findings import AuditCell, Findings
from ggl.audits.next_steps import next_steps
from ggl.measures.leakage import Scores
from ggl.measures.lpips import LPIPS_HINT, lpips_note
from ggl.measures.metrics import METRICS
from ggl.pages.card import Card
from ggl.pages.templates import COLUMNS_SHOWN, DISPLAY_SIDE, check_page, data_uri, fill, fixed
from ggl.pages.trade_off import draw_trade_off

__all__ = ["render"]

Json: TypeAlias = Mapping[str, Any]

AXIS_WIDTH, AXIS_PAD = 110, 6
AXIS_REACH = (-1.0, 1.5)
"""Leak scores beyond this are drawn as arrows at the axis's end."""

SENTENCES = {
    "leaks": "the shared gradients leak under",
    "identifies": "they identify private images, though the leak score shows no leak, under",
    "no leak shown": "no leak was shown under",
    "undecided": "there is no verdict on",
    "withheld": "every verdict is withheld, since the private images do not make the captured update, on",
}
"""How the summary begins each verdict's list of defenses."""


def render(report: Findings, result: Mapping[str, object], card: Card | None = None) -> str:
    """Return the page of a report and its `to_dict()`; the same bytes for the same content.

    Args:
        report: what was found.
        result: its `to_dict()`, whose `timing` may be None.
        card: the share card that lies beside the page, None where none does.

    Raises:
        InputError: jinja2 or matplotlib, the extra `report`, is not installed.
    """
    check_page()
    return fill("report.html.jinja", {**_content(report, result), "card": card})


def _content(report: Findings, result: Json) -> dict[str, object]:
    """Return what the template shows."""
    scores = [cell[key] for cell in result["results"] for key in ("leak_score", "corrected")]
    axis = _Axis(scores)
    cells = [_cell(report, k, found, axis) for k, found in enumerate(result["results"])]
    worst = _worst(result, cells)
    groups = {
        s: [cell for cell in worst if cell["corrected"]["verdict"] == verdict]
        for verdict, s in SENTENCES.items()
    }
    return {
        **result,
        "next_steps": next_steps(result),
        "groups": {sentence: group for sentence, group in groups.items() if group},
        "cells": cells,
        "worst": worst,
        "recognized": _recognized(worst),
        "trade_off": _trade_off(result, worst),
        "proved": any(cell["guarantee"] and cell["guarantee"]["kind"] for cell in result["results"]),
        "exceeded": [
            cell
            for cell, found in zip(cells, result["results"], strict=True)
            if found["guarantee"] and found["guarantee"]["exceeded"]
        ],
        "figure": _convergence(report),
        "units": "images" if report.ceiling.batch == 1 else "batches",
        "shown": min(len(report.images), COLUMNS_SHOWN),
        "pixelated": report.images.shape[-1] < DISPLAY_SIDE,
        "side": DISPLAY_SIDE,
        "metrics": METRICS,
        "lpips_hint": None if "lpips" in result["ceiling"] else LPIPS_HINT,
        "lpips_note": lpips_note(min(report.images.shape[-2:])) if "lpips" in result["ceiling"] else None,
    }


def _convergence(report: Findings) -> object:
    """Return the chart of the cells whose losses are of the audit's own distance, of all where none is."""
    own = [cell for cell in report.cells if cell.distance is None]
    distance = str(report.settings.get("distance", "")) if own else str(report.cells[0].distance)
    return draw_convergence(own or report.cells, distance)


def _worst(result: Json, cells: Sequence[Json]) -> list[Json]:
    """Return the cell behind every defense's headline, with what the defense costs, if that is known."""
    found = {_identity(cell): cell for cell in reversed(cells)}
    costs = {} if result["utility"] is None else {c["defense"]: c for c in result["utility"]["results"]}
    return [
        {
            **found[_identity(entry)],
            "recognizable": entry["people"],
            "cost": _cost(costs[entry["defense"]]) if entry["defense"] in costs else None,
        }
        for entry in result["worst_case"]
    ]


def _identity(cell: Json) -> tuple[object, ...]:
    """Return what tells cells apart."""
    return tuple(cell.get(key) for key in ("defense", "attacker", "strategy", "rung"))


def _recognized(worst: Sequence[Json]) -> dict[str, list[Json]]:
    """Return the defenses' cells by what is said of people under them; without those withheld."""
    said: dict[str, list[Json]] = {}
    for cell in worst:
        if cell["recognizable"] is not None:
            said.setdefault(cell["recognizable"]["said"], []).append(cell)
    return said


def _cost(entry: Json) -> dict[str, object]:
    """Return a defense's accuracies in percent and what a client sends in kilobytes."""
    size = entry["client_bytes"]
    return {
        "accuracy": _percent(entry["accuracy"]),
        "kept": _percent(entry["accuracy_kept"]),
        "kilobytes": None if size is None else size / 1000,
    }


def _percent(interval: Json) -> dict[str, float | None]:
    return {key: None if interval[key] is None else 100 * interval[key] for key in ("mean", "low", "high")}


def _trade_off(result: Json, worst: Sequence[Json]) -> dict[str, object] | None:
    """Return the figure of privacy against utility, and which defenses have no point in it, and why."""
    utility = result["utility"]
    if utility is None:
        return None
    trained = [cell for cell in worst if cell["cost"] is not None]
    points = [cell for cell in trained if cell["leak_score"]["mean"] is not None]
    axis = _Axis([cell["corrected"] for cell in points])
    undefended = _percent(utility["undefended_accuracy"])
    marks = [
        {
            "key": cell["key"][4:],
            "label": cell["defense"],
            "verdict": cell["corrected"]["verdict"],
            "leak_score": cell["corrected"],
            "accuracy": cell["cost"]["accuracy"],
        }
        for cell in points
    ]
    return {
        "figure": draw_trade_off(marks, undefended, (axis.least, axis.most)),
        "points": points,
        "undefended": {"accuracy": undefended},
        "unscored": [cell for cell in trained if cell not in points],
        "untrained": [cell for cell in worst if cell["cost"] is None],
    }


def _cell(report: Findings, k: int, found: Json, axis: "_Axis") -> dict[str, object]:
    """Return a cell's figures with what the page adds to them: its pictures are the first, and the worst."""
    columns = list(range(min(len(report.images), COLUMNS_SHOWN)))
    if found["people"] is not None and found["people"]["worst_image"]["image"] not in columns:
        columns.append(found["people"]["worst_image"]["image"])
    return {
        **found,
        "key": f"cell{k:02d}",
        "marks": axis.marks(found["leak_score"]),
        "corrected_marks": axis.marks(found["corrected"]),
        "columns": columns,
        "pictures": _pictures(report, report.cells[k], columns),
    }


class _Axis:
    """The axis that the leak scores of all cells are drawn on; 0 and 1 always lie on it."""

    def __init__(self, intervals: Sequence[Json]) -> None:
        known: list[float] = [
            i[key] for i in intervals for key in ("mean", "low", "high") if i[key] is not None
        ]
        self.least = max(min([0.0, *known]), AXIS_REACH[0])
        self.most = min(max([1.0, *known]), AXIS_REACH[1])

    def place(self, score: float) -> float:
        """Return a score's position in pixels."""
        inside = min(max(score, self.least), self.most)
        share = (inside - self.least) / (self.most - self.least)
        return round(AXIS_PAD + share * (AXIS_WIDTH - 2 * AXIS_PAD), 1)

    def marks(self, interval: Json) -> dict[str, object]:
        """Return the positions of 0, 1 and the interval's known numbers, and which lie beyond."""
        known = {key: interval[key] for key in ("mean", "low", "high") if interval[key] is not None}
        return {
            "width": AXIS_WIDTH,
            "zero": self.place(0.0),
            "one": self.place(1.0),
            "below": known.get("low", 0) < self.least,
            "above": known.get("high", 0) > self.most,
            **{key: self.place(score) for key, score in known.items()},
        }


def _pictures(report: Findings, cell: AuditCell, columns: Sequence[int]) -> list[dict[str, object]]:
    """Return the rows of a cell's image grid: a title, and each image's source and alternative text."""
    rows: list[tuple[str, Tensor, Scores | None]] = [
        ("private image", report.images, None),
        ("attack", cell.images["private"], cell.attack),
        ("sibling control", cell.images["sibling"], cell.controls["sibling"]),
        ("noise control", cell.images["noise"], cell.controls["noise"]),
        ("ceiling", report.ceiling_images, report.ceiling),
    ]
    labels = report.labels.tolist()
    return [
        {"title": title, "images": [_picture(title, i, labels[i], images[i], s) for i in columns]}
        for title, images, s in rows
    ]


def _picture(title: str, i: int, label: int, image: Tensor, scores: Scores | None) -> dict[str, str]:
    alt, caption = f"image {i}, class {label}: {title}", ""
    if scores is not None:
        caption = f"{fixed(scores.values['psnr'][i], 1)} dB"
        alt += f", PSNR {caption}, rank {scores.ranks[i]} of {scores.decoys[i] + 1}"
    return {"source": data_uri(image), "alt": alt, "caption": caption}
