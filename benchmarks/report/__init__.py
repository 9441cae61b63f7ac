"""The report of a benchmark's store: one self-contained HTML page, and its tables as CSV."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ggl.base.errors import InputError
from ggl.base.files import write_atomically
from ggl.benchmarks.checks import CHECKS, Flag, flags
from ggl.benchmarks.report.page import content_of
from ggl.benchmarks.report.rows import GROUP_AXES, Row, rows_of
from ggl.benchmarks.report.tables import axes_of, convergence_table, images_table, leak_table, table
from ggl.benchmarks.report.wall import wall_of
from ggl.benchmarks.sweeps.records import Record
from ggl.pages.templates import check_page, fill

__all__ = ["FLAGS_PAGE", "render", "save"]

FLAGS_PAGE = "docs/flags.md"
"""Where every doubt flag is explained, in the repository."""

Find = Callable[[str, str], Path | None]


def render(
    records: Sequence[Record],
    *,
    specs: Sequence[tuple[str, str, str]],
    pictures: Find,
    utility: Mapping[str, Any] | None,
    command: str,
) -> str:
    """Return the page of a store's records; the same bytes for the same input.

    Args:
        records: all of them.
        specs: hash, name and text of each spec that cells were run for.
        pictures: from a cell's id and one of `ggl.benchmarks.report.wall.PICTURES` to its file, which may
            be missing.
        utility: content of a utility.json of `ggl utility`, as
            `ggl.costs.utility_file.read_utility` returns it.
        command: what makes the page again.

    Raises:
        InputError: jinja2 or matplotlib, the extra `report`, is not installed.
    """
    rows, found = _rows_and_flags(records, utility)
    return _page(rows, found, records, specs, pictures, utility, command)


def save(
    records: Sequence[Record],
    *,
    specs: Sequence[tuple[str, str, str]],
    pictures: Find,
    utility: Mapping[str, Any] | None,
    command: str,
    folder: Path,
) -> None:
    """Write report.html and the folder tables: the same tables as CSV; arguments as of `render`.

    Raises:
        InputError: the extra `report` is not installed, or the folder cannot be written.
    """
    rows, found = _rows_and_flags(records, utility)
    page = _page(rows, found, records, specs, pictures, utility, command)
    try:
        (folder / "tables").mkdir(parents=True, exist_ok=True)
        for name, text in {"report.html": page, **_tables(rows, found)}.items():
            write_atomically(folder / name, text.encode())
    except OSError as error:
        raise InputError(
            f"{folder}: expected a folder to write the report into, but: {error.strerror}; name another"
        ) from error


def _rows_and_flags(
    records: Sequence[Record], utility: Mapping[str, Any] | None
) -> tuple[list[Row], list[Flag]]:
    check_page()
    rows = rows_of(records, utility)
    return rows, flags([row.group for row in rows])


def _page(
    rows: Sequence[Row],
    found: Sequence[Flag],
    records: Sequence[Record],
    specs: Sequence[tuple[str, str, str]],
    pictures: Find,
    utility: Mapping[str, Any] | None,
    command: str,
) -> str:
    content = {
        **content_of(rows, records, wall_of(rows, pictures), utility, found),
        "flags": _by_kind(found, rows),
        "flags_page": FLAGS_PAGE,
        "specs": [{"hash": key, "name": name, "text": text} for key, name, text in specs],
        "command": command,
    }
    return fill("bench_report.html.jinja", content, packages=("ggl.benchmarks", "ggl.pages"))


def _tables(rows: Sequence[Row], found: Sequence[Flag]) -> dict[str, str]:
    """Return the tables by their files' names."""
    head = ("flag", "severity", *GROUP_AXES, "cells", "message")
    lines = ([flag.name, flag.severity, *axes_of(flag.group), flag.cells, flag.message] for flag in found)
    return {
        "tables/leak.csv": leak_table(rows),
        "tables/images.csv": images_table(rows),
        "tables/convergence.csv": convergence_table(rows),
        "tables/flags.csv": table(head, lines),
    }


def _by_kind(found: Sequence[Flag], rows: Sequence[Row]) -> list[dict[str, object]]:
    """Return the flags by kind, doubts first, each with its explanation and the rows it concerns."""
    by_group = {row.group.cell: row for row in rows}
    strategies = list(dict.fromkeys(row.strategy for row in rows))
    kinds: dict[tuple[str, str], list[Flag]] = {}
    for flag in found:
        kinds.setdefault((flag.severity, flag.name), []).append(flag)
    return [
        {
            "name": name,
            "severity": severity,
            "meaning": CHECKS[name],
            "flags": [
                {
                    "row": (row := by_group[flag.group]),
                    "strategy": strategies.index(row.strategy),
                    "message": flag.message,
                }
                for flag in members
            ],
        }
        for (severity, name), members in kinds.items()
    ]
