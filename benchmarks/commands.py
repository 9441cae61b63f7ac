"""What `ggl bench`, `ggl report` and `ggl reproduce` do and print."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ggl.base.devices import find_device
from ggl.base.errors import InputError
from ggl.base.processes import processors
from ggl.benchmarks.leaderboard.run import PAGE, BoardRun, make_leaderboard
from ggl.benchmarks.report import save
from ggl.benchmarks.report.words import counts_of
from ggl.benchmarks.reproduce.file import known_reproductions, load_reproduction
from ggl.benchmarks.reproduce.run import ReproductionRun, is_begun, reproduce
from ggl.benchmarks.sweeps.engines import Engine, LocalEngine
from ggl.benchmarks.sweeps.export import Format
from ggl.benchmarks.sweeps.export import export as write_table
from ggl.benchmarks.sweeps.plan import plan, plan_lines
from ggl.benchmarks.sweeps.ray_engine import RayEngine
from ggl.benchmarks.sweeps.records import Record
from ggl.benchmarks.sweeps.runner import Watcher, missing_packs, run
from ggl.benchmarks.sweeps.spec import Spec, load_spec, parse_spec
from ggl.benchmarks.sweeps.store import Store
from ggl.benchmarks.trackers import Tracker, load_tracker, settings_of
from ggl.commands.console import LOG_WIDTH
from ggl.costs.utility_file import read_utility

__all__ = [
    "export",
    "leaderboard",
    "report",
    "reproduce_papers",
    "resume",
    "retry_failed",
    "show_plan",
    "start",
    "status",
]

ENGINES = ("local", "ray")
SHOWN_REASONS = 5
"""Reasons of failures that are printed at the end; `ggl bench status` prints all."""


def show_plan(spec_file: Path, *, workers: int | None, device: str) -> None:
    """Print a spec's cells, evaluations and estimated time."""
    where = find_device(device)
    made = plan(load_spec(spec_file), workers=workers or _default_workers(where), device=where)
    for line in plan_lines(made):
        print(line)


def start(
    spec_file: Path, folder: Path | None, *, engine: str, workers: int | None, device: str, tracker: str
) -> int:
    """Run what a store lacks of a spec; return the exit code, 1 where a cell failed."""
    spec = load_spec(spec_file)
    return _run([spec], folder or Path("runs/bench") / spec.name, engine, workers, device, tracker, new=True)


def resume(folder: Path, *, engine: str, workers: int | None, device: str, tracker: str) -> int:
    """Run what a store lacks of its own specs."""
    return _run(_specs(folder), folder, engine, workers, device, tracker)


def retry_failed(folder: Path, *, engine: str, workers: int | None, device: str, tracker: str) -> int:
    """Forget a store's failed cells and run them again."""
    specs = _specs(folder)
    with Store(folder) as store:
        print(f"{store.forget_failed()} failed cells are run again")
    return _run(specs, folder, engine, workers, device, tracker)


def status(folder: Path) -> None:
    """Print how far a store's specs are, who works on it, and why cells failed or were skipped."""
    specs = _specs(folder)
    with Store(folder) as store:
        records, claims = store.records(), store.claims()
        for spec in specs:
            left = sum(len(pack) for pack in missing_packs(spec, store))
            print(f"{spec.name} ({spec.hash}): {len(spec.cells()) - left} of {len(spec.cells())} cells done")
    print(_counts(records))
    alive = sum(claims.values())
    print(f"{alive} packs in work now, {len(claims) - alive} left by runners that are gone")
    for kind in ("failed", "skipped"):
        for line in _reasons(records, kind):
            print(line)


def export(folder: Path, to: Path) -> None:
    """Write a store's cells as CSV or Parquet, by the file's suffix."""
    formats: dict[str, Format] = {".csv": "csv", ".parquet": "parquet"}
    if to.suffix not in formats:
        raise InputError(f"{to}: expected a name that ends in .csv or .parquet, found {to.suffix!r}")
    with Store(folder) as store:
        records = store.records()
    print(f"{len(records)} cells: {write_table(records, to, formats[to.suffix])}")


def report(folder: Path, out: Path | None, utility: Path | None) -> None:
    """Write a store's page and tables into a folder, its own by default."""
    with Store(folder) as store:
        records, specs, picture = store.records(), store.specs(), store.picture
    costs = None if utility is None else _costs(utility, records)
    given = "" if utility is None else f" --utility {utility.name}"
    save(
        records,
        specs=specs,
        pictures=picture,
        utility=costs,
        command=f"ggl report {folder.name}{given}",
        folder=out or folder,
    )
    print(f"{len(records)} cells: {(out or folder) / 'report.html'}")


def reproduce_papers(run: ReproductionRun, workers: int | None) -> None:
    """Run a reproduction, or without a name all of them, each in a folder of its own; name their pages.

    Where no number of workers is given, all processors are used. Of all, a reproduction that is there
    already is resumed where asked, and one that is not is begun.
    """
    run = replace(run, workers=workers or _default_workers(find_device(run.device)))
    if run.name:
        _reproduce(run)
        return
    for name in known_reproductions():
        out = run.out / f"{name}-{run.scale}"
        needed = load_reproduction(name).at(run.scale).files
        _reproduce(
            replace(
                run,
                name=name,
                out=out,
                files=run.files if needed else None,
                resume=run.resume and is_begun(out),
            )
        )


def _reproduce(run: ReproductionRun) -> None:
    reproduce(run, lambda line: print(f"{run.name}: {line}", flush=True))
    print(f"page: {run.own_page}", flush=True)


def leaderboard(asked: BoardRun, workers: int | None) -> None:
    """Make the leaderboard, on all processors where no number of workers is given; name its page."""
    asked = replace(asked, workers=workers or _default_workers(find_device(asked.device)))
    make_leaderboard(asked, lambda line: print(line, flush=True))
    print(f"page: {asked.out / PAGE}")


def _costs(utility: Path, records: Sequence[Record]) -> dict[str, Any]:
    """Return what a utility.json says, which must be of one of the victims."""
    victims = dict.fromkeys(record.cell.victim for record in records)
    for victim in victims:
        with suppress(InputError):
            return read_utility(utility, victim)
    return read_utility(utility, next(iter(victims), ""))


def _specs(folder: Path) -> list[Spec]:
    """Return the specs of a store, those added first before the others."""
    with Store(folder) as store:
        return [parse_spec(text, f"{folder}, spec {name}") for _, name, text in store.specs()]


def _run(
    specs: Sequence[Spec],
    folder: Path,
    engine: str,
    workers: int | None,
    device: str,
    tracker: str,
    *,
    new: bool = False,
) -> int:
    for spec in specs:
        spec.check()
    watcher = load_tracker(tracker, folder)
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH, highlight=False)
    with _engine(engine, workers, device) as workplace, Store(folder, create=new) as store:
        for spec in specs:
            with _watched(spec, store, watcher, console) as watch:
                run(spec, store, workplace, device=device, watch=watch)
        return _conclude(store, console)


@contextmanager
def _engine(name: str, workers: int | None, device: str) -> Iterator[Engine]:
    """Give an engine, and stop its workers in the end, whatever happens."""
    if name not in ENGINES:
        raise InputError(f"expected engine {' or '.join(ENGINES)}, found {name!r}")
    where = find_device(device)
    engine: Engine
    if name == "ray":
        engine = RayEngine(workers, gpu=where.type == "cuda")
    else:
        engine = LocalEngine(workers or _default_workers(where))
    try:
        yield engine
    finally:
        engine.close()


def _default_workers(device: torch.device) -> int:
    """Return one a processor, or one where a GPU does the work."""
    return 1 if device.type == "cuda" else processors()


@contextmanager
def _watched(spec: Spec, store: Store, tracker: Tracker, console: Console) -> Iterator[Watcher]:
    """Show a bar, tell the tracker, and give what is called with every pack's records."""
    cells = [*spec.cells(), *(cell for cell, _ in spec.skipped())]
    known = store.statuses()
    ended = Counter(known[cell.id] for cell in cells if cell.id in known)
    tracker.start(spec.name, settings_of(cells), len(cells))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} cells, {task.fields[failed]} failed"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=console) as bars:
            bar = bars.add_task(spec.name, total=len(cells), completed=ended.total(), failed=ended["failed"])

            def watch(records: Sequence[Record]) -> None:
                for record in records:
                    ended[record.status] += 1
                    tracker.record(record, ended.total(), ended["failed"])
                bars.update(bar, completed=ended.total(), failed=ended["failed"])

            yield watch
    except KeyboardInterrupt:
        console.print(f"interrupted; ggl bench resume {store.folder} goes on")
        raise
    finally:
        tracker.close()


def _conclude(store: Store, console: Console) -> int:
    """Print how the cells ended; return 1 where one failed."""
    records = store.records()
    console.print(_counts(records))
    failures = _reasons(records, "failed")
    for line in failures[:SHOWN_REASONS]:
        console.print(line, markup=False)
    if failures:
        console.print(f"all reasons: ggl bench status {store.folder}; then ggl bench retry-failed")
    console.print(f"page: ggl report {store.folder}", soft_wrap=True)
    return 1 if failures else 0


def _counts(records: Sequence[Record]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts_of(records).items())


def _reasons(records: Sequence[Record], kind: str) -> list[str]:
    """Return every reason why cells ended so, with how many, the most frequent first."""
    reasons = Counter(record.reason for record in records if record.status == kind)
    return [f"{kind}, {count} cells: {reason}" for reason, count in reasons.most_common()]
