"""The rows of a store's report: groups of cells by setting, defense and strategy, with their figures."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

from ggl.audits.verdicts import Verdict, corrected_verdict, strength
from ggl.benchmarks.sweeps.aggregate import CellGroup, groups_of
from ggl.benchmarks.sweeps.cells import AXES, CELL_FIELDS, SweepCell
from ggl.benchmarks.sweeps.records import Record
from ggl.costs.utility_file import costs_of
from ggl.measures.many_looks import Correction, Look, correct
from ggl.measures.statistics import Interval

__all__ = [
    "GROUP_AXES",
    "WITHIN",
    "Bounds",
    "Row",
    "Setting",
    "bounds_of",
    "rows_of",
    "settings_of",
    "strongest",
]

Json: TypeAlias = Mapping[str, Any]
Bounds: TypeAlias = dict[str, float | None]
"""An interval's "mean", "low" and "high", each None where it is undefined."""

GROUP_AXES = tuple(axis for axis in AXES if axis != "seed")
"""What tells groups apart; seeds are averaged."""

WITHIN = ("defense", "strategy", "image", "seed")
"""What differs within a setting."""


@dataclass(frozen=True)
class Setting:
    """What cells share but for defense, strategy, image and seed.

    Attributes:
        label: what tells it from the store's other settings; empty where it is the only one.
    """

    index: int
    cell: SweepCell
    label: str


@dataclass(frozen=True)
class Row:
    """A group with its place on the page.

    Attributes:
        key: its anchor.
        correction: of its leak score and identification, for the number of its defense's groups, whatever
            their strategy and setting; None where the group has no leak score.
        cost: its defense's entry of `ggl.costs.utility_file.costs_of`; None where no training of it is known.
    """

    key: str
    setting: Setting
    group: CellGroup
    correction: Correction | None
    cost: Json | None

    @property
    def verdict(self) -> Verdict:
        """Return what may be said of the group, whichever of its defense's groups it is."""
        if self.correction is None:
            return self.group.verdict
        return corrected_verdict(self.correction, self.group.scores("attack"))

    @property
    def corrected(self) -> Bounds:
        """Return the leak score with the interval that is corrected for the number of groups."""
        return bounds_of(None if self.correction is None else self.correction.leak.interval)

    @property
    def defense(self) -> str:
        """Return the defense's name with its options."""
        return self.group.cell.defense

    @property
    def strategy(self) -> str:
        """Return the strategy's name with its options."""
        return self.group.cell.strategy

    @property
    def leak(self) -> Bounds:
        """Return the leak score."""
        return bounds_of(None if self.group.leak is None else self.group.leak.interval)

    @cached_property
    def identification(self) -> Bounds:
        """Return how often the private image is the nearest among its decoys."""
        return bounds_of(self.group.identification().get("identification"))

    @cached_property
    def metrics(self) -> dict[str, Bounds]:
        """Return the attack's descriptive figures; of a metric not at hand all are None."""
        names = ("psnr", "ssim", "lpips")
        return {name: bounds_of(self.group.mean("attack", name)) for name in names}

    @cached_property
    def done(self) -> tuple[Record, ...]:
        """Return the cells behind the figures."""
        return tuple(record for records in self.group.by_image.values() for record in records)

    def total(self, figure: str) -> float | None:
        """Return the sum of a figure over the cells behind the figures; None where it is not at hand."""
        known = [value for record in self.done if (value := record.figures.get(figure)) is not None]
        return math.fsum(known) if known and len(known) == len(self.done) else None

    @property
    def rate(self) -> float | None:
        """Return the attack's evaluations per second of its cells' time, controls included in the time."""
        evaluations, seconds = self.total("evaluations"), self.total("seconds")
        return evaluations / seconds if evaluations and seconds else None


def rows_of(records: Sequence[Record], utility: Json | None) -> list[Row]:
    """Return a row a group, undefended ones before the others, beside what their defenses cost."""
    groups = sorted(groups_of(records), key=lambda group: group.cell.defense != "none")
    settings = {setting.cell: setting for setting in settings_of(groups)}
    costs = _costs(groups, utility)
    found = corrections_of(groups)
    return [
        Row(
            f"g{k:03d}",
            settings[_outer(group.cell)],
            group,
            found.get(group.cell),
            costs.get((group.cell.victim, group.cell.defense)),
        )
        for k, group in enumerate(groups)
    ]


def corrections_of(groups: Sequence[CellGroup]) -> dict[SweepCell, Correction]:
    """Return the groups' corrections: every defense's groups are looked at together.

    An image of one data set is one client, whatever prior, victim or strategy it meets.
    """
    found: dict[SweepCell, Correction] = {}
    for defense in dict.fromkeys(group.cell.defense for group in groups):
        scored = [group for group in groups if group.cell.defense == defense and group.leak is not None]
        looks = [
            Look(group.leak, group.scores("attack"), [(group.cell.data, image) for image in group.by_image])
            for group in scored
            if group.leak is not None
        ]
        found |= zip((group.cell for group in scored), correct(looks), strict=True)
    return found


def settings_of(groups: Iterable[CellGroup]) -> list[Setting]:
    """Return the settings of groups, each named by what differs between them."""
    cells = list(dict.fromkeys(_outer(group.cell) for group in groups))
    varies = [name for name in CELL_FIELDS if len({getattr(cell, name) for cell in cells}) > 1]
    return [Setting(k, cell, _label(cell, varies)) for k, cell in enumerate(cells)]


def strongest(rows: Iterable[Row]) -> Row | None:
    """Return the row that leaks most: those that leak first, then those that identify, then by score."""
    return max(rows, key=_strength, default=None)


def bounds_of(interval: Interval | None) -> Bounds:
    """Return an interval's figures, all of them undefined where there is none."""
    if interval is None:
        return dict.fromkeys(("mean", "low", "high"))
    figures = {"mean": interval.mean, "low": interval.low, "high": interval.high}
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def _strength(row: Row) -> tuple[bool, int, int, float]:
    return row.group.n > 0, *strength(row.verdict, row.group.verdict, row.leak["mean"])


def _outer(cell: SweepCell) -> SweepCell:
    return replace(cell, defense="", strategy="", image=0, seed=0)


def _label(cell: SweepCell, varies: Sequence[str]) -> str:
    values = ((name.replace("_", " "), getattr(cell, name)) for name in varies)
    return ", ".join(f"{name} {_shown(value)}" for name, value in values)


def _shown(value: object) -> str:
    return "own" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _costs(groups: Sequence[CellGroup], utility: Json | None) -> dict[tuple[str, str], Json]:
    """Return the costs by victim and defense; of the victim that was trained alone."""
    if utility is None:
        return {}
    trained = str(utility["settings"].get("victim")).casefold()
    cells = [group.cell for group in groups if group.cell.victim.casefold() == trained]
    names = list(dict.fromkeys(cell.defense for cell in cells))
    entries: Any = costs_of(utility, names)["results"]
    by_name = {entry["defense"]: entry for entry in entries}
    return {(cell.victim, cell.defense): by_name[cell.defense] for cell in cells if cell.defense in by_name}
