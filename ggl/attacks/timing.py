"""What an evaluation costs on this machine, from a few generations of a search that is then left alone."""

from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

from ggl.attacks.search import Progress

__all__ = ["GENERATIONS", "Run", "affordable_rate", "mean_rate", "modeled_rate", "timed_rate"]

Run: TypeAlias = Callable[[Progress], object]
"""Runs searches, and calls what it is given after every generation."""

GENERATION_SECONDS = 0.25
"""As many searches side by side as are asked for, unless a generation of theirs takes longer."""

GENERATIONS = 2


class _EnoughSeenError(Exception):
    """Enough was seen: the search goes no further."""


def timed_rate(run: Run, clock: Callable[[], float], generations: int = 1, after: int = 0) -> float:
    """Return the seconds of an evaluation after the first generation, or in it where the run ends with it.

    Args:
        run: is ended by an exception from within, once enough was seen.
        clock: seconds.
        generations: that are timed.
        after: evaluations of all searches that are to be done before, at least the first generation.
    """
    (before, started), (done, ended) = _marks(run, clock, generations, after)
    return (ended - started) / max(done - before, 1)


def affordable_rate(
    run_of: Callable[[int], Run], clock: Callable[[], float], widest: int, unit: int = 1
) -> float:
    """Return the seconds of an evaluation of as many searches side by side as can be afforded.

    Args:
        run_of: what runs so many searches.
        clock: seconds.
        widest: units of searches at most.
        unit: searches that are timed first; more only where a generation of them is fast.
    """
    (before, started), (done, ended) = _marks(run_of(unit), clock, 1, 0)
    width = min(int(GENERATION_SECONDS / max(ended - started, 1e-9)), widest)
    if width > 1:
        return timed_rate(run_of(unit * width), clock, GENERATIONS)
    return (ended - started) / max(done - before, 1)


def modeled_rate(run: Run, clock: Callable[[], float], initial: int) -> float:
    """Return the seconds of an evaluation right after a first design; of two tries the faster one.

    The first try may import what models need.
    """
    return min(timed_rate(run, clock, after=initial) for _ in range(2))


def _marks(run: Run, clock: Callable[[], float], generations: int, after: int) -> list[tuple[int, float]]:
    """Return evaluations and time where a run's timed generations begin, and where they end."""
    marks: list[tuple[int, float]] = []

    def note(done: int, planned: int, loss: float) -> None:  # noqa: ARG001
        if done >= after:
            marks.append((done, clock()))
        if len(marks) > generations:
            raise _EnoughSeenError

    began = (0, clock())
    with suppress(_EnoughSeenError):
        run(note)
    return [marks[0] if len(marks) > 1 else began, marks[-1]]


def mean_rate(plain: float, modeled: float, share: float) -> float:
    """Return a mean over the budget: a plain rate for a share of it, and for the rest a model's first."""
    return share * plain + (1 - share) * modeled
