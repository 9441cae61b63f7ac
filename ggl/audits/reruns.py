"""What differs between two runs of one audit: every value, or figures beyond their intervals."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from ggl.audits.evidence import flatten

__all__ = ["INTERVALS", "beyond_intervals", "unequal"]

Json: TypeAlias = Mapping[str, Any]

INTERVALS = ("leak_score", "identification", "psnr")
"""Of a cell, the figures that are compared within their intervals."""


def unequal(first: object, second: object) -> Iterator[str]:
    """Yield a line for every value that two results do not share, by its path."""
    a, b = dict(flatten(first)), dict(flatten(second))
    nothing = "not there"
    for path in {**a, **b}:
        if a.get(path) != b.get(path):
            yield f"{path}: {a.get(path, nothing)} in the evidence, {b.get(path, nothing)} here"


def beyond_intervals(first: Json, second: Json) -> Iterator[str]:
    """Yield a line for every figure and verdict in which two results differ by more than rounding explains.

    On other versions, threads or devices sums are rounded otherwise and searches take other paths. Figures
    are held to be one where each mean lies in the other's 95 % interval; one without an interval is not
    compared. Verdicts are those of worst cases, or what is said of a captured update.

    Args:
        first: the content of `result.json` in the evidence.
        second: that of the run here.
    """
    if "control_gap" in first or "control_gap" in second:
        yield from _apart("control_gap", first["control_gap"], second["control_gap"])
        for key in ("labels", "stands_out", "settings_doubtful"):
            yield from _other(key, first[key], second[key])
        return
    keys = ("defense", "attacker", "strategy")
    cells = {tuple(cell[key] for key in keys): cell for cell in second["results"]}
    for k, cell in enumerate(first["results"]):
        found = cells.get(tuple(cell[key] for key in keys))
        if found is None:
            yield f"results[{k}]: {', '.join(cell[key] for key in keys)} is not there here"
            continue
        for name in INTERVALS:
            yield from _apart(f"results[{k}].{name}", cell[name], found[name])
    verdicts = {row["defense"]: row["verdict"] for row in second["worst_case"]}
    for k, row in enumerate(first["worst_case"]):
        yield from _other(f"worst_case[{k}].verdict", row["verdict"], verdicts.get(row["defense"]))


def _apart(path: str, first: Json, second: Json) -> Iterator[str]:
    """Yield where a mean lies outside the other's interval."""
    for a, b in ((first, second), (second, first)):
        if None not in (a["mean"], b["low"], b["high"]) and not b["low"] <= a["mean"] <= b["high"]:
            yield f"{path}: {_text(first)} in the evidence, {_text(second)} here"
            return


def _other(path: str, first: object, second: object) -> Iterator[str]:
    if first != second:
        yield f"{path}: {first!r} in the evidence, {second!r} here"


def _text(interval: Json) -> str:
    mean, low, high = (
        "undefined" if interval[key] is None else f"{interval[key]:.4g}" for key in ("mean", "low", "high")
    )
    return f"{mean} [{low}, {high}]"
