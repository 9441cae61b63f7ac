"""What the studies' pages and files share: Markdown tables, intervals as text, rows as CSV."""

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from io import StringIO
from pathlib import Path
from typing import Any, TypeAlias

from ggl.base.files import write_atomically
from ggl.measures.statistics import Interval

__all__ = ["SPACED", "figure_text", "interval_text", "markdown_table", "read_csv", "write_csv"]

Number: TypeAlias = float | int | None
Figure: TypeAlias = Interval | Mapping[str, Any]

SPACED = " --- "
"""A rule under the headings that is spaced like the other lines."""

READERS: Mapping[Any, Callable[[str], Any]] = {
    str: str,
    int: int,
    float: float,
    bool: lambda text: text == "True",
}


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]], rule: str = "---") -> str:
    """Return a Markdown table, without a line break at its end."""
    first, *others = (f"| {' | '.join(line)} |" for line in (headings, *rows))
    return "\n".join([first, f"|{f'{rule}|' * len(headings)}", *others])


def interval_text(mean: Number, low: Number, high: Number, form: str = ".2f", missing: str = "") -> str:
    """Return "mean [low, high]".

    Bounds that are None or NaN are left out; a mean that is None is `missing`, whatever the bounds.
    """
    if mean is None:
        return missing
    if low is None or high is None or math.isnan(low):
        return f"{mean:{form}}"
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]"


def figure_text(figure: Figure | None, form: str = ".2f", missing: str = "") -> str:
    """Return the text of an interval, or of what one is in JSON; None is `missing`."""
    if figure is None:
        return missing
    known = figure.to_dict() if isinstance(figure, Interval) else figure
    return interval_text(known["mean"], known["low"], known["high"], form, missing)


def read_csv(path: Path, kind: type[Any]) -> list[Any]:
    """Return the rows of a dataclass that `write_csv` wrote, none where there is no file.

    Its fields are strings, integers, floats or booleans, never None.
    """
    if not path.exists():
        return []
    readers = {field.name: READERS[field.type] for field in fields(kind)}
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    return [kind(**{key: readers[key](text) for key, text in line.items()}) for line in lines]


def write_csv(path: Path, kind: type[Any], rows: Iterable[Any]) -> None:
    """Write rows of a dataclass, atomically, under the names of its fields; None is empty."""
    text = StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_atomically(path, text.getvalue().encode())
