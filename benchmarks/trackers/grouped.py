"""The frame of our own trackers: a run for the sweep, and one for each of its groups."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Generic, TypeVar
from uuid import uuid4

from ggl.base.files import write_atomically
from ggl.benchmarks.sweeps.cells import SweepCell, together
from ggl.benchmarks.sweeps.records import Record
from ggl.benchmarks.trackers.content import Point, group_name, points_of, sweep_points

__all__ = ["GroupedTracker", "store_id"]

Run = TypeVar("Run")


class GroupedTracker(ABC, Generic[Run]):
    """Shows cells that differ in their image alone as one run, so that viewers overlay such groups.

    Args:
        folder: the store's, which exists.
    """

    errors: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, name: str, settings: Mapping[str, object], total: int) -> None:
        """Open the sweep's own run."""
        self.name, self._settings = name, settings
        self._groups: dict[SweepCell, Run] = {}
        key = f"sweep-{sha256(name.encode()).hexdigest()[:8]}"
        self._sweep = self._open((), key, {**settings, "cells": total})

    def record(self, record: Record, done: int, failed: int) -> None:
        """Write a cell's points to its group's run, and the counts to the sweep's."""
        points = points_of(record)
        if points:
            self._write(self._group(together(record.cell)), points)
        self._write(self._sweep, sweep_points(done, failed))

    def close(self) -> None:
        """Finish all runs."""
        for run in [*self._groups.values(), self._sweep]:
            self._finish(run)

    def _group(self, cell: SweepCell) -> Run:
        if cell not in self._groups:
            settings = {key: value for key, value in asdict(cell).items() if key != "image"}
            self._groups[cell] = self._open(group_name(cell, self._settings), cell.id, settings)
        return self._groups[cell]

    @abstractmethod
    def _open(self, group: tuple[str, ...], key: str, settings: Mapping[str, object]) -> Run:
        """Open a run anew, or the one that an earlier run of the store left under this key.

        Args:
            group: the parts of its name; none of the sweep's own.
            key: the same in every run of the store, and no other group's.
            settings: hyperparameters: of the sweep a tuple of values each, of a group one.
        """

    @abstractmethod
    def _write(self, run: Run, points: Sequence[Point]) -> None:
        """Write points to a run."""

    @abstractmethod
    def _finish(self, run: Run) -> None:
        """Finish a run."""


def store_id(folder: Path) -> str:
    """Return 12 hexadecimal digits that are a store's own, wherever it is moved: made once, then read."""
    path = folder / "tracker.id"
    if not path.exists():
        write_atomically(path, uuid4().hex[:12].encode())
    return path.read_text()
