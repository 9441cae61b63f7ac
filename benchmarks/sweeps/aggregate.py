"""From cells to figures: what a defense leaks under an attacker and a strategy, and how sure that is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean

import numpy as np

from ggl.audits.people import recognizable_people
from ggl.audits.verdicts import Verdict, find_verdict
from ggl.benchmarks.sweeps.cells import SweepCell
from ggl.benchmarks.sweeps.records import SOURCES, Record, figure_name
from ggl.measures.leakage import HEADLINE, LeakScore, Scores, identification, leak_score
from ggl.measures.statistics import Interval, bootstrap_mean

__all__ = ["CONTROLS", "CellGroup", "groups_of"]

CONTROLS = ("sibling", "noise", "prior", "class_mean")


@dataclass(frozen=True)
class CellGroup:
    """Cells that differ in image and seed alone.

    Figures are of the images with an ok cell for every seed; `count("failed")` says what is missing. A
    seed is no further image: figures are means over seeds first, and intervals are over images. A rank is
    the median over seeds, rounded up. Skipped cells count neither as images nor as seeds: that they are
    left out was known before.

    Attributes:
        cell: what they share; its image and seed are 0.
        records: all of them, ok or not.
    """

    cell: SweepCell
    records: tuple[Record, ...]

    def count(self, status: str) -> int:
        """Return how many cells ended so."""
        return sum(record.status == status for record in self.records)

    @cached_property
    def seeds(self) -> int:
        """Return how many seeds stand behind a figure."""
        return len({record.cell.seed for record in self.records if record.status != "skipped"})

    @cached_property
    def by_image(self) -> dict[int, list[Record]]:
        """Return the cells of every image that is ok for every seed."""
        found: dict[int, list[Record]] = {}
        for record in sorted(self.records, key=lambda record: (record.cell.image, record.cell.seed)):
            if record.status == "ok":
                found.setdefault(record.cell.image, []).append(record)
        return {image: cells for image, cells in found.items() if len(cells) == self.seeds}

    @property
    def n(self) -> int:
        """Return how many images stand behind a figure."""
        return len(self.by_image)

    def per_image(self, source: str, metric: str) -> dict[int, float]:
        """Return a source's figure of every image, the mean over seeds.

        Raises:
            KeyError: it is not at hand, or not finite, for every cell; see `has`.
        """
        name = figure_name(source, metric)
        return {image: fmean(_known(cell, name) for cell in cells) for image, cells in self.by_image.items()}

    def values(self, source: str, metric: str) -> list[float]:
        """Return `per_image` without the images' numbers (n,), in their order."""
        return list(self.per_image(source, metric).values())

    def has(self, metric: str, source: str = "attack") -> bool:
        """Return whether a figure is at hand and finite for every cell that counts, and one does."""
        name = figure_name(source, metric)
        cells = [cell for cells in self.by_image.values() for cell in cells]
        return bool(cells) and all(_is_known(cell.figures.get(name)) for cell in cells)

    def mean(self, source: str, metric: str) -> Interval | None:
        """Return a figure with its interval over images; None without an image or the metric."""
        return bootstrap_mean(self.values(source, metric)) if self.has(metric, source) else None

    def scores(self, source: str) -> Scores:
        """Return a source's headline errors and ranks of every image.

        Raises:
            KeyError: one of them is not at hand.
        """
        rank = figure_name(source, "rank")
        ranks = [[_known(cell, rank) for cell in cells] for cells in self.by_image.values()]
        decoys = [int(_known(cells[0], "decoys")) for cells in self.by_image.values()]
        middle = np.array([math.ceil(np.median(found)) for found in ranks], dtype=np.int64)
        errors = np.array(self.values(source, HEADLINE))
        return Scores({HEADLINE: errors}, middle, np.array(decoys, dtype=np.int64))

    @cached_property
    def leak(self) -> LeakScore | None:
        """Return the leak score against the strongest control; None without an image or an error."""
        return self._leak_of("attack")

    @cached_property
    def verdict(self) -> Verdict:
        """Return what the figures allow to be said; without an image nothing."""
        return "undecided" if self.leak is None else find_verdict(self.leak, self.scores("attack"))

    def identification(self, source: str = "attack") -> Mapping[str, Interval]:
        """Return how often the private image is picked out from its decoys; empty without an image."""
        known = self.has(HEADLINE, source) and self.has("rank", source)
        return identification(self.scores(source)) if known else {}

    @cached_property
    def recognizable(self) -> Mapping[str, object] | None:
        """Return how many images are recognizable, as an audit's cell says it; None without an image."""
        sources = ("attack", *CONTROLS)
        if not all(self.has(HEADLINE, each) and self.has("rank", each) for each in sources):
            return None
        scores = {each: self.scores(each) for each in sources}
        return recognizable_people(scores.pop("attack"), scores, self.seeds)[1]

    def control_scores(self) -> Mapping[str, Interval]:
        """Return every control's own leak score against the strongest; empty where `leak` is None.

        The strongest has 0; a control below it is weaker. Undefined (NaN) where `leak` is.
        """
        scores = {control: self._leak_of(control) for control in CONTROLS}
        return {control: score.interval for control, score in scores.items() if score is not None}

    def _leak_of(self, source: str) -> LeakScore | None:
        if not all(self.has(HEADLINE, each) for each in SOURCES):
            return None
        errors = {each: np.array(self.values(each, HEADLINE)) for each in SOURCES}
        return leak_score(errors[source], errors["ceiling"], {name: errors[name] for name in CONTROLS})


def groups_of(records: Sequence[Record]) -> list[CellGroup]:
    """Return groups of records, in the order of their first."""
    found: dict[SweepCell, list[Record]] = {}
    for record in records:
        found.setdefault(replace(record.cell, image=0, seed=0), []).append(record)
    return [CellGroup(cell, tuple(members)) for cell, members in found.items()]


def _known(record: Record, name: str) -> float:
    value = record.figures.get(name)
    if value is None or not math.isfinite(value):
        raise KeyError(f"{name} of cell {record.cell.id}")
    return float(value)


def _is_known(value: float | int | None) -> bool:
    return value is not None and math.isfinite(value)
