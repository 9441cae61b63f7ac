"""What every tracker shows of a sweep: names of runs, curves and their steps."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ggl.benchmarks.sweeps.cells import AXES, CELL_FIELDS, SweepCell
from ggl.benchmarks.sweeps.records import Record

__all__ = ["STEPS", "Point", "group_name", "points_of", "settings_of", "sweep_points", "text_of"]

STEPS = {"image": "image", "search_mse": "evaluations", "search_loss": "evaluations", "sweep": "done"}
"""What the steps of a curve count, by the first part of its name."""

BY_IMAGE = {
    "mse": "attack_mse",
    "psnr": "attack_psnr",
    "loss": "loss",
    "rank": "attack_rank",
    "seconds": "seconds",
}
"""Figures that are shown of every image, by the second part of their curve's name."""

NAMED = ("defense", "attacker", "strategy")


class Point(NamedTuple):
    """A value of a curve at a step, which follows from the cell: a cell that is run again draws no other."""

    name: str
    step: int
    value: float


def points_of(record: Record) -> list[Point]:
    """Return a cell's points; none of one that is not ok, and none where a figure is undefined."""
    image = record.cell.image
    figures = [(f"image/{name}", image, record.figures.get(key)) for name, key in BY_IMAGE.items()]
    curves = [
        (f"search_{name}/image{image}", point.evaluations, value)
        for point in record.curve
        for name, value in (("mse", point.mse), ("loss", point.loss))
    ]
    return [
        Point(name, step, float(value))
        for name, step, value in [*figures, *curves]
        if value is not None and math.isfinite(value)
    ]


def sweep_points(done: int, failed: int) -> list[Point]:
    """Return how far the sweep is."""
    return [Point("sweep/done", done, float(done)), Point("sweep/failed", done, float(failed))]


def settings_of(cells: Sequence[SweepCell]) -> dict[str, tuple[object, ...]]:
    """Return what a sweep's cells are made of: of every field but the image its values, in their order."""
    names = [name for name in CELL_FIELDS if name != "image"]
    return {name: tuple(dict.fromkeys(getattr(cell, name) for cell in cells)) for name in names}


def group_name(cell: SweepCell, settings: Mapping[str, object]) -> tuple[str, ...]:
    """Return the parts of the name of the cells that differ from this one in their image alone.

    Defense, attacker and strategy always; of the other axes those which `settings` has with several
    values, or not at all.
    """
    others = [axis for axis in AXES if axis not in NAMED and _varies(axis, settings)]
    return (
        *(getattr(cell, axis) for axis in NAMED),
        *(f"{axis}={getattr(cell, axis)}" for axis in others),
    )


def _varies(axis: str, settings: Mapping[str, object]) -> bool:
    if axis not in settings:
        return True
    values = settings[axis]
    return isinstance(values, list | tuple) and len(values) > 1


def text_of(setting: object) -> str:
    """Return a setting, or its several values, as a line of at most 500 characters, as trackers ask."""
    text = ", ".join(map(str, setting)) if isinstance(setting, list | tuple) else str(setting)
    return text[:500]
