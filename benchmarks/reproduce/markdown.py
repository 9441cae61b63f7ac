"""Tables and figures as the pages of reproductions write them."""

import math
from collections.abc import Iterable, Mapping, Sequence

from ggl.measures.statistics import Interval

__all__ = ["NOTHING", "bounds_text", "every", "interval_text", "markdown_table"]

NOTHING = "-"


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    cells = [[text.replace("|", "\\|") for text in row] for row in (heads, ["---"] * len(heads), *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def every(values: Iterable[str]) -> str:
    """Return each different value once, or that none is known."""
    return "; ".join(sorted({value for value in values if value})) or "unknown"


def interval_text(interval: Interval | None, form: str) -> str:
    """Return a mean with its interval where it has one."""
    if interval is None or math.isnan(interval.mean):
        return NOTHING
    if math.isnan(interval.low) or interval.low == interval.high:
        return f"{interval.mean:{form}}"
    return f"{interval.mean:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def bounds_text(bounds: Mapping[str, float | None]) -> str:
    """Return a report's "mean", with its "low" and "high" where they are known."""
    mean, low, high = (bounds[name] for name in ("mean", "low", "high"))
    if mean is None:
        return "undefined"
    return f"{mean:.2f}" if low is None or high is None else f"{mean:.2f} [{low:.2f}, {high:.2f}]"
