"""The figures that claims are about: of a sweep's cells, or of a measurement's rows, by a group's name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ggl.benchmarks.reproduce.claims import LOSS, SUCCESS
from ggl.benchmarks.reproduce.measurements.base import Over, Row
from ggl.benchmarks.reproduce.measuring import Measured
from ggl.benchmarks.reproduce.plan import MEASURED, ReproductionPlan
from ggl.benchmarks.sweeps.aggregate import CellGroup
from ggl.benchmarks.sweeps.records import Record
from ggl.costs.utility import t_interval
from ggl.measures.statistics import Interval, bootstrap_mean, share, share_of_clusters

__all__ = [
    "LEAK_SCORE",
    "MEANS",
    "Group",
    "RowGroup",
    "groups_of_plan",
    "interval_of",
    "mean_of",
    "over_of",
    "points_of",
    "same_images",
    "values_of",
]


@dataclass(frozen=True)
class RowGroup:
    """Rows of one measurement that are figures of one thing.

    Attributes:
        rows: all of them; of one image or seed there may be several, whose mean is its figure.
        over: what intervals are over.
    """

    rows: tuple[Row, ...]
    over: Over

    @property
    def n(self) -> int:
        """Return how many images or seeds stand behind a figure."""
        return len({row.unit for row in self.rows})

    def values(self, metric: str) -> dict[int, float] | None:
        """Return a figure, or a time, by image or seed; None where a row does not have it."""
        found: dict[int, list[float]] = {}
        for row in self.rows:
            figures = {**row.timing, **row.figures}
            if metric not in figures:
                return None
            found.setdefault(row.unit, []).append(figures[metric])
        return {unit: fmean(values) for unit, values in sorted(found.items())}


Group: TypeAlias = CellGroup | RowGroup

LEAK_SCORE = "leak_score"
"""A figure of cells together, not of each."""

RECOGNIZED = 0.6
"""The SSIM from which PRECODE's authors count an image as found (arXiv 2108.04725)."""

Values: TypeAlias = NDArray[np.float64]


def over_of(group: Group) -> Over:
    """Return what a group's intervals are over."""
    return group.over if isinstance(group, RowGroup) else "images"


def values_of(group: Group, source: str, metric: str) -> dict[int, float] | None:
    """Return a figure by image or seed; None where it is not at hand for every one."""
    if isinstance(group, RowGroup):
        return group.values(metric)
    found: dict[int, float] = {}
    for image, records in group.by_image.items():
        figures = [_figure(record, source, metric) for record in records]
        known = [figure for figure in figures if figure is not None]
        if len(known) < len(figures):
            return None
        found[image] = fmean(known)
    return found


def _figure(record: Record, source: str, metric: str) -> float | None:
    if metric == LOSS:
        return record.figures.get(LOSS)
    if metric == SUCCESS:
        ssim = record.figure(source, "ssim")
        return None if ssim is None else float(ssim >= RECOGNIZED)
    return record.figure(source, metric)


def same_images(groups: Sequence[Group]) -> bool:
    """Return whether groups of cells number their private images alike, as far as they share numbers."""
    known: dict[int, str] = {}
    for group in groups:
        if isinstance(group, RowGroup):
            continue
        for image, records in group.by_image.items():
            if known.setdefault(image, records[0].private_image) != records[0].private_image:
                return False
    return True


def mean_of(group: Group, figure: str) -> Interval | None:
    """Return a figure's mean with its interval; of cells the attack's, or their leak score; None without."""
    if figure == LEAK_SCORE:
        leak = group.leak if isinstance(group, CellGroup) else None
        return None if leak is None else leak.interval
    values = values_of(group, "attack", figure)
    return interval_of(figure, over_of(group))(np.array(list(values.values()))) if values else None


def interval_of(metric: str, over: Over) -> Callable[[Values], Interval]:
    """Return what makes a metric's interval over images or seeds; of a share of images the exact one."""
    return _share if metric == SUCCESS and over == "images" else MEANS[over]


def points_of(group: RowGroup, metric: str) -> tuple[list[float], list[int]] | None:
    """Return a figure of every row, with the rows' units; None where one does not have it."""
    if any(metric not in row.figures for row in group.rows):
        return None
    return [row.figures[metric] for row in group.rows], [row.unit for row in group.rows]


def _share(values: Values) -> Interval:
    """Return the share of images found: none of ten does not say that there is no other."""
    if np.isin(values, (0, 1)).all():
        return share(int(values.sum()), len(values))
    return share_of_clusters(values)


def _exact(values: Values) -> Interval:
    """Return a figure that was computed, with no doubt about it."""
    mean = float(np.mean(values))
    return Interval(mean, mean, mean, len(values))


MEANS: Mapping[Over, Callable[[Values], Interval]] = {
    "images": bootstrap_mean,
    "clients": bootstrap_mean,
    "seeds": lambda values: t_interval(values.tolist()),
    "nothing": _exact,
}
"""A figure's mean with its interval, by what that is over."""


def groups_of_plan(plan: ReproductionPlan, records: Sequence[Record], measured: Measured) -> dict[str, Group]:
    """Return the groups of which a record or a row is there, by the names that claims use."""
    known = {record.cell: record for record in records}
    found: dict[str, Group] = {}
    for name, cells in plan.groups.items():
        members = tuple(known[cell] for cell in cells if cell in known)
        if members:
            found[name] = CellGroup(members[0].cell, members)
    for name, where in plan.row_groups.items():
        source = str(where[MEASURED])
        keys = {key: value for key, value in where.items() if key != MEASURED}
        axes = plan.measured[source].axes().keys() if source in plan.measured else ()
        rows = (row for row in measured.rows.get(source, ()) if row.keys.keys() == set(axes))
        here = tuple(row for row in rows if all(row.keys[key] == value for key, value in keys.items()))
        if here:
            found[name] = RowGroup(here, plan.measured[source].over)
    return found
