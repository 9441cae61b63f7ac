"""Runs what a store lacks of a spec: ceilings first, then packs; every pack ends in one transaction."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from ggl.base.weights import load_tensors, save_tensors
from ggl.benchmarks.sweeps.cells import Pack, SweepCell, packs_of
from ggl.benchmarks.sweeps.engines import Engine, Failure
from ggl.benchmarks.sweeps.execute import (
    Ceiling,
    PackOutcome,
    ceiling_of,
    ceilings_of,
    find_commit,
    invert_images,
    run_pack,
)
from ggl.benchmarks.sweeps.records import Record, Status
from ggl.benchmarks.sweeps.spec import Spec
from ggl.benchmarks.sweeps.store import Store

__all__ = ["CEILINGS", "DONE", "Watcher", "missing_packs", "run"]

CEILINGS = "ceilings"
"""Folder in a store's, with the inverted private images that all packs of a prior and data share."""

DONE: tuple[Status, ...] = ("ok", "failed", "skipped")
"""What a cell's status is where it is not run again."""

Watcher: TypeAlias = Callable[[Sequence[Record]], None]
"""Called with the records of every pack that has ended."""


def missing_packs(spec: Spec, store: Store) -> list[Pack]:
    """Return the packs of which a cell has no record yet."""
    known = store.statuses()
    return [pack for pack in packs_of(spec.cells(), spec.pack) if any(c.id not in known for c in pack)]


def run(spec: Spec, store: Store, engine: Engine, *, device: str, watch: Watcher) -> None:
    """Run every pack that is missing and that no other runner has claimed.

    A pack that fails is cut in halves, down to the cell that fails; memory that does not suffice for a pack
    may do for half of it. What a kill interrupts is run anew as the same packs, with the same figures.
    """
    store.add_spec(spec.hash, spec.name, spec.text)
    _Run(spec, store, engine, device, watch).all()


@dataclass
class _Unit:
    """A claimed pack: how many of its parts are still out, and the outcomes so far."""

    pack: Pack
    parts: int = 1
    outcomes: list[PackOutcome] = field(default_factory=list)


_Part: TypeAlias = tuple[_Unit, Pack, NDArray[np.float32]]
"""A unit, the cells of it that are searched together, and its images' ceilings."""


@dataclass
class _Run:
    spec: Spec
    store: Store
    engine: Engine
    device: str
    watch: Watcher
    ceilings: dict[Ceiling, NDArray[np.float32] | Failure] = field(default_factory=dict)
    tasks: dict[int, _Part] = field(default_factory=dict)
    halves: deque[_Part] = field(default_factory=deque)
    number: int = 0

    def all(self) -> None:
        self._skip()
        packs = missing_packs(self.spec, self.store)
        self._find_ceilings(packs)
        for pack in packs:
            self._drain(self.engine.slots - 1)
            if self.store.claim(name_of(pack), [cell.id for cell in pack], DONE):
                self._begin(pack)
        self._drain(0)

    def _drain(self, most: int) -> None:
        """Wait until no half waits and at most so many tasks run."""
        while self.halves or len(self.tasks) > most:
            while self.halves and len(self.tasks) < self.engine.slots:
                self._submit(*self.halves.popleft())
            if len(self.tasks) > most:
                self._take()

    def _skip(self) -> None:
        """Record the cells that are left out, with the reason."""
        known = self.store.statuses()
        left_out = [*self.spec.skipped(), *self.spec.refused()]
        records = [self._record(cell, "skipped", reason) for cell, reason in left_out if cell.id not in known]
        self.store.write(records)
        if records:
            self.watch(records)

    def _find_ceilings(self, packs: Sequence[Pack]) -> None:
        """Read the ceilings that the packs need, or have them made."""
        missing = []
        for ceiling, cell in ceilings_of(packs).items():
            path = self._path(ceiling)
            if path.exists():
                self.ceilings[ceiling] = load_tensors(path)["images"].numpy()
            else:
                missing.append((ceiling, cell))
        self._make_ceilings(missing)

    def _make_ceilings(self, missing: Sequence[tuple[Ceiling, SweepCell]]) -> None:
        waiting, left = dict(enumerate(missing)), 0
        for task, (_, cell) in waiting.items():
            if left == self.engine.slots:
                left -= self._keep_ceilings(waiting)
            self.engine.submit(task, invert_images, cell, self.device)
            left += 1
        while left:
            left -= self._keep_ceilings(waiting)

    def _keep_ceilings(self, waiting: Mapping[int, tuple[Ceiling, SweepCell]]) -> int:
        """Store ceilings that have been made, and return how many."""
        ended = self.engine.wait()
        for task, images in ended:
            ceiling = waiting[task][0]
            self.ceilings[ceiling] = images
            if not isinstance(images, Failure):
                path = self._path(ceiling)
                path.parent.mkdir(exist_ok=True)
                save_tensors(path, {"images": torch.tensor(images)})
        return len(ended)

    def _path(self, ceiling: Ceiling) -> Path:
        return self.store.folder / CEILINGS / f"{ceiling.key}.safetensors"

    def _begin(self, pack: Pack) -> None:
        ceiling = self.ceilings[ceiling_of(pack[0])]
        unit = _Unit(pack)
        if isinstance(ceiling, Failure):
            unit.outcomes.append(self._failed(pack, f"its ceiling failed: {ceiling.reason}"))
            self._finish(unit)
        else:
            self._submit(unit, pack, ceiling)

    def _submit(self, unit: _Unit, part: Pack, ceiling: NDArray[np.float32]) -> None:
        self.number += 1
        self.tasks[self.number] = unit, part, ceiling
        images = ceiling[[cell.image for cell in part]]
        self.engine.submit(self.number, run_pack, part, images, self.device)

    def _take(self) -> None:
        """Take what has ended: a part's outcome, or its failure, which halves it."""
        for task, result in self.engine.wait():
            unit, part, ceiling = self.tasks.pop(task)
            if not isinstance(result, Failure):
                unit.outcomes.append(result)
            elif len(part) == 1:
                unit.outcomes.append(self._failed(part, result.reason))
            else:
                middle = len(part) // 2
                self.halves.extend((unit, half, ceiling) for half in (part[:middle], part[middle:]))
                unit.parts += 2
            unit.parts -= 1
            if not unit.parts:
                self._finish(unit)

    def _finish(self, unit: _Unit) -> None:
        """Store a pack's pictures, then its records and the end of its claim in one transaction."""
        records = [
            replace(record, spec=self.spec.hash) for outcome in unit.outcomes for record in outcome.records
        ]
        for (cell, name), picture in _pictures(unit.outcomes):
            self.store.keep_picture(cell, name, torch.tensor(picture))
        self.store.finish(name_of(unit.pack), records)
        self.watch(records)

    def _failed(self, pack: Pack, reason: str) -> PackOutcome:
        return PackOutcome(tuple(self._record(cell, "failed", reason) for cell in pack), {})

    def _record(self, cell: SweepCell, status: Literal["failed", "skipped"], reason: str) -> Record:
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        return Record(cell, status, reason, spec=self.spec.hash, commit=find_commit(), finished=finished)


def _pictures(outcomes: Sequence[PackOutcome]) -> Iterator[tuple[tuple[str, str], NDArray[np.float32]]]:
    for outcome in outcomes:
        yield from outcome.pictures.items()


def name_of(pack: Pack) -> str:
    """Return what a pack is claimed by."""
    return f"{pack[0].id}-{len(pack)}"
