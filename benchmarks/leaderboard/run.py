"""The leaderboard made: defenses trained, strengths chosen, what is chosen attacked, a page written."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ggl.base.errors import CheckpointError, InputError
from ggl.base.files import write_atomically
from ggl.benchmarks.leaderboard.board import choose, load_board, spec_of
from ggl.benchmarks.leaderboard.front import check_front, write_front
from ggl.benchmarks.leaderboard.page import page_of, standings
from ggl.benchmarks.report.rows import rows_of
from ggl.benchmarks.reproduce.measuring import measure, rows_as_csv
from ggl.benchmarks.reproduce.plan import FILES, MEASURED, folder_names
from ggl.benchmarks.reproduce.run import is_begun, run_sweeps
from ggl.commands.folders import check_folder

__all__ = ["PAGE", "BoardRun", "make_leaderboard"]

TRAINING = "training"
PAGE = "leaderboard.md"


@dataclass(frozen=True)
class BoardRun:
    """What `ggl bench leaderboard` is asked for.

    Attributes:
        files: the folder of what had to be brought.
        out: the run's folder, in which leaderboard.md, cells.csv and training.csv are written.
        resume: go on with what lies there.
        images, budget, rounds: fewer, to try it.
        workers: processes.
        device: "cpu", "cuda", "auto".
        page: a further place for the page.
        results: a further folder for the tables.
        front: a page that gets the first rows.
    """

    files: Path
    out: Path
    resume: bool = False
    images: int | None = None
    budget: int | None = None
    rounds: int | None = None
    workers: int = 1
    device: str = "auto"
    page: Path | None = None
    results: Path | None = None
    front: Path | None = None

    @property
    def shortened(self) -> bool:
        """Whether less is run than the board says, so that nothing may be claimed."""
        return any(value is not None for value in (self.images, self.budget, self.rounds))


def make_leaderboard(asked: BoardRun, note: Callable[[str], None]) -> None:
    """Train, choose, attack, and write the page and its tables; what is there already is kept.

    Raises:
        InputError: a file is missing, the folder holds a run, or a shortened run's page was to be kept.
        CheckpointError: there is nothing to resume.
    """
    from ggl.benchmarks.sweeps.engines import LocalEngine
    from ggl.benchmarks.sweeps.export import write_csv
    from ggl.benchmarks.sweeps.store import Store

    board = load_board().shortened(asked.images, asked.budget, asked.rounds)
    if asked.shortened and (asked.page, asked.results, asked.front) != (None, None, None):
        raise InputError("a shortened run claims nothing: expected no place for its page, leave --page out")
    if asked.front is not None:
        check_front(asked.front)
    for needed in board.files:
        place = asked.files / needed.path
        if not place.exists():
            raise InputError(f"{place}: expected it there, found nothing; get it: {needed.source}")
    check_folder(asked.out)
    if asked.resume and not is_begun(asked.out):
        raise CheckpointError(f"{asked.out}: holds no leaderboard to resume; leave --resume out")
    if not asked.resume and is_begun(asked.out):
        raise InputError(f"{asked.out}: holds a leaderboard already; add --resume, or choose another folder")
    parts = {TRAINING: board.trainings()}
    own = folder_names(parts)[TRAINING]
    folders = {FILES: str(asked.files.absolute()), TRAINING: str(asked.out.absolute() / MEASURED / own)}
    with Store(asked.out, create=True) as store:
        engine = LocalEngine(asked.workers)
        try:
            measured = measure(parts, folders, engine, note, asked.device)
            if measured.failures:
                raise InputError(f"a training failed: {measured.failures[0]}; --resume tries it again")
            chosen = choose(board, measured.rows[TRAINING])
            records = run_sweeps([spec_of(board, chosen)], store, engine, asked.device, note)
        finally:
            engine.close()
    rows = measured.rows[TRAINING]
    commits = [*(record.commit for record in records), *measured.commits]
    text = page_of(board, chosen, records, rows, commits=commits, shortened=asked.shortened)
    for page in (asked.out / PAGE, asked.page):
        if page is not None:
            page.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(page, text.encode())
    if asked.front is not None:
        write_front(asked.front, standings(chosen, rows_of(records, None), rows))
    for folder in (asked.out, asked.results):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            write_csv(records, folder / "cells.csv")
            write_atomically(folder / "training.csv", rows_as_csv(rows).encode())
