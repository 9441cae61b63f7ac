"""A paper's reproduction by one command: runs its sweeps, judges its claims, writes page and tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ggl.base.errors import CheckpointError, InputError
from ggl.base.files import write_atomically
from ggl.benchmarks.reproduce.claims import Check, side_of
from ggl.benchmarks.reproduce.file import Claim, NeededFile, Scale, load_reproduction
from ggl.benchmarks.reproduce.groups import groups_of_plan
from ggl.benchmarks.reproduce.judging import Finding, judge
from ggl.benchmarks.reproduce.measuring import Measured, measure, rows_as_csv
from ggl.benchmarks.reproduce.page import page_of
from ggl.benchmarks.reproduce.plan import Overrides, ReproductionPlan, plan_of
from ggl.benchmarks.sweeps.records import Record
from ggl.benchmarks.sweeps.spec import Spec
from ggl.commands.folders import check_folder

if TYPE_CHECKING:
    from ggl.benchmarks.sweeps.engines import Engine
    from ggl.benchmarks.sweeps.store import Store

__all__ = [
    "STORE",
    "ReproductionRun",
    "check_files",
    "is_begun",
    "judged",
    "lacking",
    "reproduce",
    "run_sweeps",
]

STORE = "store.sqlite"

Note = Callable[[str], None]
"""Called with a line on what has been done."""


@dataclass(frozen=True)
class ReproductionRun:
    """What `ggl reproduce` is asked for.

    Attributes:
        name: of the reproduction: "ggl".
        scale: "small" or "paper".
        out: the store's folder, in which `NAME-SCALE.md` and `cells.csv` are written.
        resume: go on with what lies there.
        files: the folder of what had to be brought, where the scale needs any.
        less: what is shortened; then no verdict is claimed.
        workers: processes.
        device: "cpu", "cuda", "cuda:1", or "auto".
        page: a further place for the page.
        results: a further folder for the tables.
    """

    name: str
    scale: str
    out: Path
    resume: bool = False
    files: Path | None = None
    less: Overrides = field(default_factory=Overrides)
    workers: int = 1
    device: str = "auto"
    page: Path | None = None
    results: Path | None = None

    @property
    def own_page(self) -> Path:
        """Where the page lies in the run's folder."""
        return self.out / f"{self.name}-{self.scale}.md"


def reproduce(run: ReproductionRun, note: Note | None = None) -> None:
    """Run a reproduction's measurements and sweeps in a folder, judge its claims, write a page and tables.

    What the folder holds already is kept: with `resume` the rest is run, and where nothing is left page
    and tables are written anew, the same to the byte. `note` is told of the progress.

    Raises:
        UnknownNameError: no reproduction or scale has that name.
        InputError: a file is missing, the folder holds a run, or a shortened run's page was to be kept.
        CheckpointError: there is nothing to resume.
    """
    reproduction = load_reproduction(run.name)
    if run.less.any and (run.page is not None or run.results is not None):
        raise InputError("a shortened run claims nothing: expected no place for its page, leave --page out")
    scale = reproduction.at(run.scale)
    check_files(scale, run.files)
    _check_place(run.out, run.resume)
    plan = plan_of(
        reproduction,
        run.scale,
        None if run.files is None else run.files.absolute(),
        run.less,
        out=run.out.absolute(),
        lacking=lacking(scale, run.files),
    )
    records, measured = _run(plan, run, note or (lambda _: None))
    text = page_of(plan, records, measured, judged(plan, records, measured))
    for place in (run.own_page, run.page):
        if place is not None:
            _write(place, text)
    for folder in (run.out, run.results):
        if folder is not None:
            _write_tables(records, measured, folder)


def judged(
    plan: ReproductionPlan, records: Sequence[Record], measured: Measured | None = None
) -> Mapping[str, Sequence[Finding]]:
    """Return what every check found, by the claims' ids; nothing of a shortened run."""
    groups = groups_of_plan(plan, records, measured or Measured())

    def finding(check: Check) -> Finding:
        asked = [side_of(side)[0] for side in (check.a, check.b) if side is not None]
        lacks = [plan.missing[name] for name in (*asked, *check.trained) if name in plan.missing]
        return Finding("not testable", lacks[0]) if lacks else judge(check, groups)

    def findings(claim: Claim) -> list[Finding]:
        return [finding(check) for check in claim.at(plan.scale).checks]

    return {} if plan.shortened else {claim.id: findings(claim) for claim in plan.reproduction.claims}


def lacking(scale: Scale, files: Path | None) -> list[NeededFile]:
    """Return the optional files that were not brought."""
    return [n for n in scale.files if n.optional and (files is None or not (files / n.path).exists())]


def check_files(scale: Scale, files: Path | None) -> None:
    """Refuse to begin without what a scale needs.

    Raises:
        InputError: naming the first file that is missing, and where to get it.
    """
    if not scale.files:
        if files is not None:
            raise InputError("this scale needs no files: leave --files out")
        return
    wanted = [needed for needed in scale.files if not needed.optional]
    if files is None:
        if not wanted:
            return
        names = ", ".join(needed.path for needed in wanted)
        raise InputError(
            f"this scale needs files: expected --files DIR with {names}; the page says from where"
        )
    if "," in str(files.absolute()):
        raise InputError(f"{files}: expected a path without a comma, which separates a prior's options")
    for needed in wanted:
        if not (files / needed.path).exists():
            raise InputError(
                f"{files / needed.path}: expected it there, found nothing; get it: {needed.source}"
            )


def is_begun(out: Path) -> bool:
    """Return whether a folder holds a reproduction, whole or not."""
    return (out / STORE).exists()


def _check_place(out: Path, resume: bool) -> None:
    check_folder(out)
    there = is_begun(out)
    if resume and not there:
        raise CheckpointError(f"{out}: holds no reproduction to resume; leave --resume out")
    if there and not resume:
        raise InputError(f"{out}: holds a reproduction already; add --resume, or choose another folder")


def _run(plan: ReproductionPlan, asked: ReproductionRun, note: Note) -> tuple[list[Record], Measured]:
    """Run what is missing; return the records of the sweeps' cells, and what was measured."""
    from ggl.benchmarks.sweeps.engines import LocalEngine
    from ggl.benchmarks.sweeps.store import Store

    with Store(asked.out, create=True) as store:
        engine = LocalEngine(asked.workers)
        try:
            measured = measure(plan.measured, plan.folders, engine, note, asked.device)
            return run_sweeps(list(plan.specs.values()), store, engine, asked.device, note), measured
        finally:
            engine.close()


def run_sweeps(
    specs: Sequence[Spec], store: "Store", engine: "Engine", device: str, note: Note
) -> list[Record]:
    """Run what a store lacks of sweeps; return their records in the order of the sweeps' cells."""
    from ggl.benchmarks.sweeps.runner import run

    cells = dict.fromkeys(cell for spec in specs for cell in spec.cells())
    ended = {record.cell for record in store.records()} & cells.keys()

    def watch(records: Sequence[Record]) -> None:
        ended.update(record.cell for record in records)
        note(f"{len(ended & cells.keys())} of {len(cells)} cells")

    for spec in specs:
        run(spec, store, engine, device=device, watch=watch)
    known = {record.cell: record for record in store.records()}
    return [known[cell] for cell in cells if cell in known]


def _write(place: Path, text: str) -> None:
    check_folder(place.parent)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(place, text.encode())


def _write_tables(records: Sequence[Record], measured: Measured, folder: Path) -> None:
    from ggl.benchmarks.sweeps.export import write_csv

    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if records:
        write_csv(records, folder / "cells.csv")
    for name, rows in measured.rows.items():
        write_atomically(folder / f"{name}.csv", rows_as_csv(rows).encode())
