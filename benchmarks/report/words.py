"""The summary of a store's report: what its first paragraph says, out of the figures."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ggl.audits.people import worst_people
from ggl.benchmarks.report.heat import cost_of
from ggl.benchmarks.report.rows import Row, strongest
from ggl.benchmarks.sweeps.records import Record

__all__ = ["MOST_NAMED", "counts_of", "reasons_of", "summary_of"]

Json: TypeAlias = Mapping[str, Any]

MOST_NAMED = 4
"""Defenses that the summary names of each verdict; the heat map holds the others."""

ORDER = ("leaks", "identifies", "no leak shown", "undecided", "unmeasured")


def summary_of(rows: Sequence[Row], records: Sequence[Record]) -> dict[str, object]:
    """Return what the first paragraph says: of every verdict the defenses at their worst, and counts."""
    worst = [strongest(row for row in rows if row.defense == name) for name in _defenses(rows)]
    found = [row for row in worst if row is not None]
    images = {row.group.n for row in rows if row.group.n}
    return {
        "defenses": len(found),
        "strategies": len({row.strategy for row in rows}),
        "settings": len({row.setting for row in rows}),
        "images": (min(images), max(images)) if images else (0, 0),
        "recognized": _recognized(rows),
        "verdicts": [_verdict(name, found) for name in ORDER if any(_kind(row) == name for row in found)],
        "counts": counts_of(records),
        "cells": len(records),
    }


def counts_of(records: Sequence[Record]) -> dict[str, int]:
    """Return how many cells ended how."""
    return {s: sum(record.status == s for record in records) for s in ("ok", "failed", "skipped")}


def reasons_of(records: Sequence[Record]) -> list[dict[str, object]]:
    """Return why cells failed or were skipped: each reason with how many and where, most frequent first."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.status != "ok":
            found.setdefault((record.status, record.reason or "no reason given"), []).append(record)
    ordered = sorted(found.items(), key=lambda item: (item[0][0], -len(item[1])))
    return [
        {
            "status": status,
            "reason": reason,
            "count": len(members),
            "where": list(dict.fromkeys((r.cell.defense, r.cell.strategy) for r in members)),
        }
        for (status, reason), members in ordered
    ]


def _recognized(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Return the defenses by what is said of people under them, the most recognizable first."""
    found: dict[tuple[int, str], list[str]] = {}
    for name in _defenses(rows):
        cells = [
            {"attacker": row.group.cell.attacker, "strategy": row.strategy, "people": {"recognizable": said}}
            for row in rows
            if row.defense == name and (said := row.group.recognizable) is not None
        ]
        if cells and (people := worst_people(cells)) is not None:
            found.setdefault((-int(str(people["at_least"])), str(people["said"])), []).append(name)
    return {said: names for (_, said), names in sorted(found.items())}


def _defenses(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.defense for row in rows))


def _kind(row: Row) -> str:
    return row.verdict if row.group.n else "unmeasured"


def _verdict(name: str, worst: Sequence[Row]) -> dict[str, object]:
    """Return a verdict's defenses: of those that leak the worst first, of the others the cheapest first."""
    rows = [row for row in worst if _kind(row) == name]
    by = _score if name in ("leaks", "identifies") else _kept
    ordered = sorted(rows, key=by, reverse=True)
    return {
        "name": name,
        "count": len(rows),
        "entries": [_entry(row) for row in ordered[:MOST_NAMED]],
        "more": max(0, len(rows) - MOST_NAMED),
    }


def _entry(row: Row) -> dict[str, object]:
    cost = cost_of(row)
    return {
        "key": row.key,
        "defense": row.defense,
        "strategy": row.strategy,
        "setting": row.setting.label,
        "score": row.leak if row.correction is None else row.corrected,
        "kept": None if cost is None else cost["kept"]["mean"],
    }


def _score(row: Row) -> float:
    mean = row.leak["mean"]
    return -math.inf if mean is None else mean


def _kept(row: Row) -> float:
    cost = cost_of(row)
    kept = None if cost is None else cost["kept"]["mean"]
    return -math.inf if kept is None else kept
