"""The heat map of a report: leak scores by defense and strategy, one table a setting."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ggl.benchmarks.report.rows import Bounds, Row, Setting, strongest

__all__ = ["SHADES", "SIGNS", "cost_of", "heat_maps", "shade"]

Json: TypeAlias = Mapping[str, Any]

SIGNS = {"leaks": "▲", "identifies": "◆", "no leak shown": "○", "undecided": "?"}
"""Of every verdict, so that no color is needed to tell them apart."""

SHADES = (0.0, 0.1, 0.25, 0.5, 0.75)
"""Upper ends of the heat map's classes; the last class has none."""


def heat_maps(rows: Sequence[Row], settings: Sequence[Setting]) -> list[dict[str, object]]:
    """Return the tables: where settings are several, the worst case over them, then each."""
    maps = [_table(str(s.index), s.label, [row for row in rows if row.setting == s]) for s in settings]
    if len(settings) > 1:
        maps.insert(0, _table("", f"Worst case over {len(settings)} settings", rows, several=True))
    return maps


def shade(score: float | None) -> str:
    """Return the class of a leak score on the color scale: "h0" up to 0, to "h5" above 0.75."""
    return "hx" if score is None else f"h{sum(score > end for end in SHADES)}"


def cost_of(row: Row | None) -> dict[str, Bounds] | None:
    """Return a defense's accuracy and what is kept of the undefended one's, in percent and points."""
    if row is None or row.cost is None:
        return None
    return {"accuracy": _percent(row.cost["accuracy"]), "kept": _percent(row.cost["accuracy_kept"])}


def _percent(interval: Json) -> Bounds:
    return {key: None if interval[key] is None else 100.0 * interval[key] for key in ("mean", "low", "high")}


def _table(key: str, title: str, rows: Sequence[Row], *, several: bool = False) -> dict[str, object]:
    strategies = list(dict.fromkeys(row.strategy for row in rows))
    defenses = list(dict.fromkeys(row.defense for row in rows))
    counts = {(row.group.n, row.group.seeds) for row in rows if row.group.n}
    return {
        "key": key,
        "title": title,
        "strategies": strategies,
        "count": counts.pop() if len(counts) == 1 else None,
        "rows": [
            _line([row for row in rows if row.defense == name], strategies, several) for name in defenses
        ],
    }


def _line(rows: Sequence[Row], strategies: Sequence[str], several: bool) -> dict[str, object]:
    """Return a defense's row: its worst case, a cell a strategy, and what it costs."""
    found = {name: strongest(row for row in rows if row.strategy == name) for name in strategies}
    costs = [cost for row in rows if (cost := cost_of(row)) is not None]
    return {
        "defense": rows[0].defense,
        "worst": _worst(strongest(rows), several),
        "cells": [_cell(row, several) for row in found.values()],
        "cost": costs[0] if costs else None,
    }


def _worst(row: Row | None, several: bool) -> dict[str, object]:
    """Return a defense's strongest cell with the interval that is corrected for the choice."""
    cell = _cell(row, several)
    return {**cell, "score": row.corrected} if row is not None and row.correction is not None else cell


def _cell(row: Row | None, several: bool) -> dict[str, object]:
    """Return what a cell of the heat map says; without a measured image, why there is none."""
    if row is None:
        return {"state": "absent"}
    failed, skipped = row.group.count("failed"), row.group.count("skipped")
    known = {
        "key": row.key,
        "strategy": row.strategy,
        "setting": row.setting.label if several else "",
        "failed": failed,
        "skipped": skipped,
        "reasons": list(dict.fromkeys(record.reason for record in row.group.records if record.reason)),
    }
    if not row.group.n:
        return {**known, "state": "failed" if failed else "skipped"}
    return {
        **known,
        "state": "measured",
        "verdict": row.verdict,
        "sign": SIGNS[row.verdict],
        "score": row.leak,
        "shade": shade(row.leak["mean"]),
        "n": row.group.n,
        "seeds": row.group.seeds,
    }
