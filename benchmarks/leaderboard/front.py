"""The leaderboard's first rows in a page that is otherwise written by hand, such as the README."""

from collections.abc import Sequence
from pathlib import Path

from ggl.base.errors import InputError
from ggl.base.files import write_atomically
from ggl.benchmarks.leaderboard.board import NONE
from ggl.benchmarks.leaderboard.page import Standing, table_rows
from ggl.benchmarks.reproduce.markdown import markdown_table

__all__ = ["BEGIN", "END", "check_front", "front_table", "write_front"]

BEGIN, END = "<!-- leaderboard -->", "<!-- /leaderboard -->"
"""What is between these lines is replaced."""

ROWS = 5
"""Of defenses; no defense comes last, for contrast."""

COLUMNS = (0, 1, 2, 6)
"""Of the leaderboard's: which defense, its worst case, the verdict, what it keeps of the accuracy."""

HEADS = ("defense", "worst-case leak score", "verdict", "accuracy kept")


def check_front(path: Path) -> None:
    """Refuse a page that has no place for the rows.

    Raises:
        InputError: the two lines are not there, once each and in their order.
    """
    text = path.read_text("utf-8") if path.is_file() else ""
    if not (text.count(BEGIN) == text.count(END) == 1 and text.index(BEGIN) < text.index(END)):
        raise InputError(
            f"{path}: expected a page with the lines {BEGIN} and {END}, between which the rows go, found none"
        )


def front_table(found: Sequence[Standing]) -> str:
    """Return the rows of the defenses that leak least, and of no defense."""
    first = [standing for standing in found if standing.family != NONE][:ROWS]
    last = [standing for standing in found if standing.family == NONE]
    rows = [tuple(row[column] for column in COLUMNS) for row in table_rows([*first, *last])]
    return markdown_table(HEADS, rows)


def write_front(path: Path, found: Sequence[Standing]) -> None:
    """Put the rows into a page, and leave the rest of it as it is.

    Raises:
        InputError: as `check_front`.
    """
    check_front(path)
    before, _, rest = path.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    write_atomically(path, f"{before}{BEGIN}\n\n{front_table(found)}\n\n{END}{after}".encode())
