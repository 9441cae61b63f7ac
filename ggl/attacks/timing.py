"""What an evaluation costs on this machine, from a few generations of a search that is then left alone."""

from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

from ggl.attacks.search import Progress

__all__ = ["GENERATIONS", "Run", "affordable_rate", "timed_rate"]

Run: TypeAlias = Callable[[Progress], object]
"""Runs searches, and calls what it is given after every generation."""

GENERATION_SECONDS = 0.25
"""As many searches side by side as are asked for, unless a generation of theirs takes longer."""

GENERATIONS = 2


class _Enough(Exception):
    """Enough was seen: the search goes no further."""


def timed_rate(run: Run, clock: Callable[[], float], generations: int = 1, after: int = 0) -> float:
    """Return the seconds of an evaluation after the first generation, or in it where the run ends with it.

    Args:
        run: is ended by an exception from within, once enough was seen.
        clock: seconds.
        generations: that are timed.
        after: evaluations of all searches that are to be done before, at least the first generation.
    """
    marks: list[tuple[int, float]] = []

    def note(done: int, *_: float) -> None:
        if done >= after:
            marks.append((done, clock()))
        if len(marks) > generations:
            raise _Enough

    began = (0, clock())
    with suppress(_Enough):
        run(note)
    (before, started), (done, ended) = marks[0] if len(marks) > 1 else began, marks[-1]
    return (ended - started) / max(done - before, 1)


def affordable_rate(
    run_of: Callable[[int], Run], clock: Callable[[], float], generation: int, widest: int, unit: int = 1
) -> float:
    """Return the seconds of an evaluation of as many searches side by side as can be afforded.

    Args:
        run_of: what runs so many searches.
        clock: seconds.
        generation: candidates of a search's next generation.
        widest: units of searches at most.
        unit: searches that are timed first; more only where a generation of them is fast.
    """
    narrow = timed_rate(run_of(unit), clock)
    width = min(int(GENERATION_SECONDS / max(unit * generation * narrow, 1e-12)), widest)
    return timed_rate(run_of(unit * width), clock, GENERATIONS) if width > 1 else narrow
