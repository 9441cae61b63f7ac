"""What the page of a store's report shows beside its summary and heat map: each section's content."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ggl.benchmarks.checks import Flag, severest
from ggl.benchmarks.report.figures import convergence, distribution, mean_curve, per_image
from ggl.benchmarks.report.heat import SHADES, SIGNS, cost_of, heat_maps
from ggl.benchmarks.report.rows import WITHIN, Bounds, Row, Setting, strongest
from ggl.benchmarks.report.wall import Wall
from ggl.benchmarks.report.words import counts_of, reasons_of, summary_of
from ggl.benchmarks.sweeps.cells import CELL_FIELDS
from ggl.benchmarks.sweeps.records import Record
from ggl.costs.utility_file import costs_of
from ggl.pages.templates import DISPLAY_SIDE
from ggl.pages.trade_off import draw_trade_off

__all__ = ["content_of"]

Json: TypeAlias = Mapping[str, Any]

REACH = (-1.0, 1.5)
"""Leak scores beyond this are drawn as arrows at the axis's end."""

ONE_PLACE = ("device", "commit", "versions")
"""Of what a store should hold one only."""


def content_of(
    rows: Sequence[Row],
    records: Sequence[Record],
    wall: Wall,
    utility: Json | None,
    found: Sequence[Flag],
) -> dict[str, object]:
    """Return what the template shows, without specs, command and the flags' own section."""
    settings = list(dict.fromkeys(row.setting for row in rows))
    grave = severest(found)
    strategies = list(dict.fromkeys(row.strategy for row in rows))
    return {
        "summary": summary_of(rows, records),
        "undefended": _undefended(rows, utility),
        "settings": settings,
        "setting_fields": [_fields(setting) for setting in settings],
        "cells_total": len(records),
        "pictures_seeds": any(row.group.seeds > 1 for row in rows),
        "defense_index": {name: k for k, name in enumerate(dict.fromkeys(row.defense for row in rows))},
        "defenses": list(dict.fromkeys(row.defense for row in rows)),
        "strategies": strategies,
        "maps": heat_maps(rows, settings),
        "doubted": {row.key for row in rows if grave.get(row.group.cell) == "doubt"},
        "severities": {s: sum(flag.severity == s for flag in found) for s in ("doubt", "note")},
        "signs": SIGNS,
        "shades": SHADES,
        "trade_off": _trade_off(rows, utility),
        "sections": [_section(setting, rows, strategies) for setting in settings],
        "wall": wall,
        "rows": [_line(row, strategies, wall) for row in rows],
        "counts": counts_of(records),
        "reasons": reasons_of(records),
        "places": _places(records),
        "side": DISPLAY_SIDE,
    }


def _section(setting: Setting, rows: Sequence[Row], strategies: Sequence[str]) -> dict[str, object]:
    """Return a setting's figures and their tables."""
    own = [row for row in rows if row.setting == setting]
    curves = {row.key: mean_curve(row) for row in own}
    steps = sorted({round(step.evaluations) for curve in curves.values() for step in curve})
    return {
        "setting": setting,
        "convergence": convergence(own, strategies),
        "distribution": distribution(own, strategies),
        "steps": steps,
        "curves": [
            {
                "row": row,
                "strategy": strategies.index(row.strategy),
                "steps": [_at(curves[row.key], evaluations) for evaluations in steps],
            }
            for row in own
            if curves[row.key]
        ],
        "spread": [
            {"row": row, "strategy": strategies.index(row.strategy), **_spread(row)}
            for row in own
            if row.group.n
        ],
    }


def _fields(setting: Setting) -> dict[str, object]:
    """Return the fields of a setting's cells, but for what differs within it."""
    fields = {name: getattr(setting.cell, name) for name in CELL_FIELDS}
    return {name: value for name, value in fields.items() if name not in WITHIN}


def _at(curve: Sequence[Any], evaluations: int) -> Any:
    return next((step for step in curve if round(step.evaluations) == evaluations), None)


def _spread(row: Row) -> dict[str, object]:
    """Return the least, middle and greatest of the images' figures."""
    images = per_image(row)
    leaks = sorted(image.leak for image in images if image.leak is not None)
    return {
        "psnr": _three(sorted(image.psnr for image in images)),
        "control": _three(sorted(image.control for image in images)),
        "leak": _three(leaks),
        "control_name": "" if row.group.leak is None else row.group.leak.control.replace("_", " "),
        "nearer": sum(image.psnr > image.control for image in images),
    }


def _three(values: Sequence[float]) -> list[float | None]:
    n = len(values)
    if not n:
        return [None, None, None]
    return [values[0], (values[(n - 1) // 2] + values[n // 2]) / 2, values[-1]]


def _line(row: Row, strategies: Sequence[str], wall: Wall) -> dict[str, object]:
    """Return a group's figures for the table of all results, of times, and for its pictures."""
    memory = [record.figures.get("peak_memory") for record in row.done]
    leak = row.group.leak
    return {
        "row": row,
        "strategy": strategies.index(row.strategy),
        "sign": SIGNS[row.verdict],
        "control": "" if leak is None else leak.control.replace("_", " "),
        "p_value": 1.0 if leak is None else leak.p_value,
        "corrected_p": 1.0 if row.correction is None else row.correction.leak.p_value,
        "looks": 1 if row.correction is None else row.correction.looks,
        "reasons": list(dict.fromkeys(record.reason for record in row.group.records if record.reason)),
        "evaluations": _each(row, "evaluations"),
        "backward_passes": _each(row, "backward_passes"),
        "packed": _each(row, "packed"),
        "seconds": _each(row, "seconds"),
        "memory": max((m / 1e6 for m in memory if m is not None), default=None),
        "cards": wall.cards[row.key],
    }


def _each(row: Row, figure: str) -> float | None:
    total = row.total(figure)
    return None if total is None else total / len(row.done)


def _undefended(rows: Sequence[Row], utility: Json | None) -> Bounds | None:
    """Return the accuracy without a defense in percent, if a defense's cost is known."""
    if utility is None or all(row.cost is None for row in rows):
        return None
    interval: Any = costs_of(utility, [])["undefended_accuracy"]
    return {key: None if interval[key] is None else 100.0 * interval[key] for key in ("mean", "low", "high")}


def _trade_off(rows: Sequence[Row], utility: Json | None) -> dict[str, object] | None:
    """Return the figure of privacy against utility: a point a defense, at its worst."""
    undefended = _undefended(rows, utility)
    if undefended is None:
        return None
    costed = [row for row in rows if row.cost is not None]
    worst = [strongest(r for r in costed if r.defense == d) for d in dict.fromkeys(r.defense for r in costed)]
    points = [_point(row) for row in worst if row and row.leak["mean"] is not None]
    known = [x for point in points for x in point["leak_score"].values() if x is not None]
    reach = (max(min([0.0, *known]), REACH[0]), min(max([1.0, *known]), REACH[1]))
    return {
        "figure": draw_trade_off(points, undefended, reach) if points else None,
        "points": points,
        "unscored": [row.defense for row in worst if row and row.leak["mean"] is None],
        "untrained": [
            d for d in dict.fromkeys(r.defense for r in rows) if d not in {r.defense for r in costed}
        ],
        "settings": (utility or {})["settings"],
    }


def _point(row: Row) -> Any:
    cost = cost_of(row)
    return {
        "key": row.key,
        "label": row.defense,
        "defense": row.defense,
        "strategy": row.strategy,
        "sign": SIGNS[row.verdict],
        "verdict": row.verdict,
        "leak_score": row.leak if row.correction is None else row.corrected,
        **(cost or {}),
    }


def _places(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """Return the devices, commits and versions behind the cells that ran, each with how many."""
    ran = [record for record in records if record.status != "skipped"]
    found: dict[str, dict[str, int]] = {}
    for name in ONE_PLACE:
        values = [_readable(str(getattr(record, name))) for record in ran]
        found[name] = {value: values.count(value) for value in dict.fromkeys(values)}
    return found


def _readable(text: str) -> str:
    """Return versions as "numpy 2.4, torch 2.15"; other texts as they are."""
    if not text.startswith("{"):
        return text or "unknown"
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return ", ".join(f"{key} {value}" for key, value in sorted(found.items()))
