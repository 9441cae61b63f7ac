"""Bars and tables on the terminal."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from ggl.attacks.stages import Stage
from ggl.base.counting import Count

__all__ = [
    "INTERVALS",
    "LOG_WIDTH",
    "LogLines",
    "count_bars",
    "interval_text",
    "progress_bars",
    "summary_table",
]

LOG_WIDTH = 132

LOG_SECONDS = 10.0
"""Between two lines of a log."""

SHOWN_IN_SECONDS = 120.0
"""What is longer is said in minutes."""

INTERVALS = ("leak score", "identified")


@contextmanager
def progress_bars(console: Console) -> Iterator[Stage]:
    """Show a bar for each stage, with evaluations per second and the mean best loss; in a log lines."""
    if not console.is_terminal:
        yield LogLines(console, "evaluations").tell
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[rate]:.0f}/s, best loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as bars:

        def stage(title: str, done: int, planned: int, loss: float) -> None:
            if title not in tasks:
                tasks[title] = bars.add_task(title, total=planned, rate=0.0, loss=loss)
            speed = bars.tasks[tasks[title]].speed or 0.0
            bars.update(tasks[title], completed=done, rate=speed, loss=loss)

        yield stage


@contextmanager
def count_bars(console: Console, unit: str = "") -> Iterator[Count]:
    """Show a bar for each stage, its title called with what is done and there is to do; in a log lines."""
    if not console.is_terminal:
        yield LogLines(console, unit).tell
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn(f"{{task.completed}}/{{task.total}} {unit}"),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as bars:

        def stage(title: str, done: int, planned: int) -> None:
            if title not in tasks:
                tasks[title] = bars.add_task(title, total=planned)
            bars.update(tasks[title], completed=done)

        yield stage


class LogLines:
    """Progress where no terminal is: a line every ten seconds, and one where a stage ends.

    Args:
        console: what is printed to.
        unit: of what is counted.
        clock: seconds.
    """

    def __init__(self, console: Console, unit: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.unit, self.clock = console, unit, clock
        self.started: dict[str, tuple[float, int]] = {}
        self.ended: dict[str, int] = {}
        self.last = clock()

    def tell(self, title: str, done: int, planned: int, loss: float | None = None) -> None:
        """Take note of a stage's progress."""
        now = self.clock()
        began, first = self.started.setdefault(title, (now, done))
        if done < planned and now - self.last < LOG_SECONDS:
            return
        if done >= planned and self.ended.get(title) == done:
            return
        self.ended[title] = done
        self.last = now
        parts = [f"{title}: {done:,} of {planned:,} {self.unit}".rstrip()]
        if now > began and done > first:
            rate = (done - first) / (now - began)
            parts.append(f"{rate:.3g} a second")
            if done < planned:
                parts.append(_left((planned - done) / rate))
        if loss is not None:
            parts.append(f"best loss {loss:.4f}")
        self.console.print(", ".join(parts), markup=False, soft_wrap=True)


def _left(seconds: float) -> str:
    return f"{seconds:.0f} s left" if seconds < SHOWN_IN_SECONDS else f"{seconds / 60:.0f} min left"


def summary_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table of texts for the terminal."""
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, no_wrap=heading in INTERVALS, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def interval_text(values: Mapping[str, Any]) -> str:
    """Return a mean with its interval, as of `ggl.measures.statistics.Interval.to_dict`."""
    mean, low, high = (values[key] for key in ("mean", "low", "high"))
    if mean is None or low is None or high is None:
        return "undefined"
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"
