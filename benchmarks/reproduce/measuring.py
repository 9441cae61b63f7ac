"""Measurements made: jobs in processes of one thread, each kept in a file of its own as soon as it ends."""

import csv
import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ggl.base.errors import InputError
from ggl.base.files import write_atomically
from ggl.benchmarks.reproduce.measurements.base import Job, Measurement, Places, Row, Rows
from ggl.benchmarks.sweeps.engines import Engine, Failure
from ggl.benchmarks.sweeps.execute import find_commit

__all__ = ["Measured", "measure", "rows_as_csv"]


@dataclass(frozen=True)
class Done:
    """What a job gave, the seconds that it took, and the code's commit."""

    rows: Rows
    seconds: float
    commit: str


@dataclass(frozen=True)
class Measured:
    """What measurements gave: rows and seconds by their names, and why jobs have none."""

    rows: dict[str, Rows] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    commits: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)


def measure(
    measured: Mapping[str, Measurement],
    folders: Mapping[str, str],
    engine: Engine,
    note: Callable[[str], None],
    device: str = "cpu",
) -> Measured:
    """Make what is missing of measurements, one after the other, and return the rows of all.

    A job that fails stops no other; it is tried again where the run is resumed.

    Args:
        measured: by name, those that others build on before these.
        folders: of each, and of the files that were brought.
        engine: what computes the jobs.
        note: told in a line of what has been done.
        device: of the models: "cpu", "cuda", "auto".
    """
    found = Measured()
    for name, measurement in measured.items():
        folder = Path(folders[name])
        folder.mkdir(parents=True, exist_ok=True)
        places = Places(folders, str(folder), device)
        jobs = measurement.jobs(places)
        done = _done(name, jobs, folder, engine, note, found.failures)
        if len(done) == len(jobs):
            later = measurement.later_jobs(places, {job: kept.rows for job, kept in done.items()})
            done |= _done(name, later, folder, engine, note, found.failures)
        found.rows[name] = [row for kept in done.values() for row in kept.rows]
        found.seconds[name] = sum(kept.seconds for kept in done.values())
        found.commits.update(kept.commit for kept in done.values())
    return found


def _done(
    name: str,
    jobs: Mapping[str, Job],
    folder: Path,
    engine: Engine,
    note: Callable[[str], None],
    failures: list[str],
) -> dict[str, Done]:
    """Return what jobs gave, in their order; those that are not kept yet are computed."""
    kept = {job: done for job in jobs if (done := _read(folder / f"{job}.json")) is not None}
    waiting = [job for job in jobs if job not in kept]
    running: dict[int, str] = {}
    while waiting or running:
        while waiting and len(running) < engine.slots:
            job = waiting.pop(0)
            task = len(jobs) - len(waiting)
            engine.submit(task, compute, jobs[job])
            running[task] = job
        for task, result in engine.wait():
            job = running.pop(task)
            if isinstance(result, Failure):
                failures.append(f"{name}, {job}: {result.reason}")
                note(f"failed: {failures[-1]}")
                continue
            write_atomically(folder / f"{job}.json", json.dumps(asdict(result), indent=1).encode())
            kept[job] = result
            note(f"{name}: {len(kept)} of {len(jobs)}")
    return {job: kept[job] for job in jobs if job in kept}


def compute(job: Job) -> Done:
    """Return what a job gives; in a worker."""
    started = time.monotonic()
    rows = job.function(*job.arguments)
    return Done(rows, time.monotonic() - started, find_commit())


def _read(path: Path) -> Done | None:
    """Return what a file keeps of a job; None where there is none.

    Raises:
        InputError: it holds something else.
    """
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
        return Done([Row(**row) for row in content["rows"]], content["seconds"], content["commit"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected the rows of a measurement, found something else; delete it"
        ) from error


def rows_as_csv(rows: Rows) -> str:
    """Return rows as a table: axes, unit, figures, times."""
    heads = [
        *dict.fromkeys(key for row in rows for key in row.keys),
        "unit",
        *dict.fromkeys(name for row in rows for name in (*row.figures, *row.timing)),
    ]
    content = io.StringIO()
    writer = csv.DictWriter(content, heads, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row.keys, "unit": row.unit, **row.figures, **row.timing} for row in rows)
    return content.getvalue()
