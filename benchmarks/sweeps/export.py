"""Records as a table for other programs: CSV, which comes back as the same records, and Parquet."""

import csv
import io
import math
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Literal, TypeAlias

from ggl.base.distribution import install_command
from ggl.base.errors import InputError
from ggl.base.files import write_atomically
from ggl.benchmarks.sweeps.records import Record
from ggl.benchmarks.sweeps.store_schema import COLUMNS, OPTIONAL, flatten, record_of

__all__ = ["Format", "export", "read_csv", "write_csv", "write_parquet"]

Format: TypeAlias = Literal["csv", "parquet"]

KIND_NAMES = {int: "a whole number", float: "a number", str: "text"}

LONGEST_FIELD = 2**31 - 1
"""Characters of a field that are read; Python's own limit is 131,072, which a long curve could pass."""


def export(records: Sequence[Record], path: Path, format: Format) -> Path:  # noqa: A002
    """Write records to a file, or as cells.csv or cells.parquet into a folder that is there; return the file.

    Raises:
        InputError: as `write_csv` and `write_parquet`.
    """
    target = path / f"cells.{format}" if path.is_dir() else path
    (write_csv if format == "csv" else write_parquet)(records, target)
    return target


def write_csv(records: Sequence[Record], path: Path) -> None:
    """Write a line of names and one a record, in their order; None is an empty field.

    Floats have as many digits as bring the same float back.

    Raises:
        InputError: the file cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows([_text(value) for value in flatten(record).values()] for record in records)
    _write(path, text.getvalue().encode())


def _text(value: str | int | float | None) -> str:
    return "" if value is None else str(value)


def _write(path: Path, content: bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        raise InputError(
            f"{path}: expected a file that can be written, but {error.strerror}; name another"
        ) from error


def write_parquet(records: Sequence[Record], path: Path) -> None:
    """Write the same table with columns int64, double and string; None is null.

    Raises:
        InputError: pyarrow, of the extra `bench`, is not installed, or the file cannot be written.
    """
    try:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise InputError(f"Parquet needs pyarrow: {install_command('pyarrow')}, or export as CSV") from error
    kinds = {int: arrow.int64(), float: arrow.float64(), str: arrow.string()}
    schema = arrow.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
    table = arrow.Table.from_pylist([flatten(record) for record in records], schema=schema)
    content = io.BytesIO()
    parquet.write_table(table, content)
    _write(path, content.getvalue())


def read_csv(path: Path) -> list[Record]:
    """Return the records of a file that `write_csv` wrote, in its order.

    Raises:
        InputError: it cannot be read, lacks a column, has one more, or a row is of no record; rows are
            counted as a spreadsheet does, the names in row 1.
    """
    names, *rows = _rows(path) or [[]]
    _check_names(path, names)
    return [_record(path, number, names, row) for number, row in enumerate(rows, 2)]


def _rows(path: Path) -> list[list[str]]:
    previous = csv.field_size_limit(LONGEST_FIELD)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.reader(file, strict=True))
    except OSError as error:
        raise InputError(f"{path}: expected a CSV file, but it cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: expected CSV in UTF-8, but {error}; export it again") from error
    finally:
        csv.field_size_limit(previous)


def _check_names(path: Path, names: Sequence[str]) -> None:
    missing = [f"without {name!r}" for name in COLUMNS if name not in names]
    unknown = [f"with {name!r}" for name in names if name not in COLUMNS]
    twice = ["with a column twice"] * (len(names) > len(COLUMNS))
    for what in (*missing, *unknown, *twice):
        raise InputError(
            f"{path}: expected the columns that ggl exports, found a table {what}; export it again"
        )


def _record(path: Path, number: int, names: Sequence[str], fields: Sequence[str]) -> Record:
    if len(fields) != len(names):
        raise InputError(
            f"{path}, row {number}: expected {len(names)} fields, found {len(fields)}; export it again"
        )
    try:
        return record_of({name: _value(name, text) for name, text in zip(names, fields, strict=True)})
    except InputError as error:
        raise InputError(f"{path}, row {number}: {error}") from error


def _value(name: str, text: str) -> str | int | float | None:
    if name in OPTIONAL and not text:
        return None
    kind = COLUMNS[name]
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if value != value:
        raise InputError(f"expected {KIND_NAMES[kind]} as {name}, found {text!r}; export it again")
    return value
