"""Bars and tables on the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from ggl.attacks.stages import Stage
from ggl.base.counting import Count

__all__ = ["INTERVALS", "LOG_WIDTH", "count_bars", "interval_text", "progress_bars", "summary_table"]

LOG_WIDTH = 132


INTERVALS = ("leak score", "identified")


@contextmanager
def progress_bars(console: Console) -> Iterator[Stage]:
    """Show a bar for each stage, with evaluations per second and the mean best loss."""
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
    """Show a bar for each stage, its title called with what is done and what there is to do."""
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
