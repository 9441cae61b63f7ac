"""How a record lies in a row, and the tables of a store with the migrations that made them."""

import json
import math
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, TypeAlias, get_args

from ggl.base.errors import InputError
from ggl.benchmarks.sweeps.cells import CELL_FIELDS, SweepCell
from ggl.benchmarks.sweeps.records import FIGURES, CurvePoint, Record, Status

__all__ = [
    *("COLUMNS", "MIGRATIONS", "OPTIONAL", "Row"),
    *("flatten", "migrate", "record_of", "transaction", "version_of"),
]

Row: TypeAlias = dict[str, Any]
"""A record by the names of `COLUMNS`: text, numbers and None."""

PROVENANCE = ("private_image", "sibling_image", "spec", "device", "commit", "versions", "finished")

COLUMNS: dict[str, type[str] | type[int] | type[float]] = {
    **{"id": str, "status": str, "reason": str},
    **{field.name: int if field.type is int else str for field in fields(SweepCell)},
    **FIGURES,
    **{"curve": str, **dict.fromkeys(PROVENANCE, str)},
}
"""Every column of a record, and its kind."""

OPTIONAL = {*FIGURES, *(field.name for field in fields(SweepCell) if type(None) in get_args(field.type))}
"""The columns that may hold nothing."""

FIRST_FIGURES = " ".join(
    f"{source}_mse REAL, {source}_psnr REAL, {source}_psnr_signed REAL, {source}_ssim REAL, "
    f"{source}_ssim_error REAL, {source}_lpips REAL, {source}_feature_distance REAL, {source}_rank INTEGER,"
    for source in ("attack", "sibling", "noise", "prior", "class_mean", "ceiling")
)

MIGRATIONS: list[tuple[str, ...]] = [
    (
        "CREATE TABLE cells (id TEXT PRIMARY KEY NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL, "
        "prior TEXT NOT NULL, victim TEXT NOT NULL, victim_weights TEXT, data TEXT NOT NULL, "
        "defense TEXT NOT NULL, attacker TEXT NOT NULL, strategy TEXT NOT NULL, distance TEXT NOT NULL, "
        "latents TEXT, budget INTEGER NOT NULL, round INTEGER NOT NULL, seed INTEGER NOT NULL, "
        "image INTEGER NOT NULL, images INTEGER NOT NULL, image_seed INTEGER NOT NULL, "
        "victim_seed INTEGER NOT NULL, ceiling_budget INTEGER NOT NULL, split TEXT NOT NULL, fit TEXT, "
        "rounds INTEGER NOT NULL, precision TEXT NOT NULL, backend TEXT NOT NULL, "
        f"{FIRST_FIGURES} label INTEGER, decoys INTEGER, label_recovered INTEGER, loss REAL, "
        "match_of_attack REAL, match_of_private REAL, evaluations INTEGER, backward_passes INTEGER, "
        "passes_per_evaluation INTEGER, seconds REAL, peak_memory INTEGER, curve TEXT NOT NULL, "
        "private_image TEXT NOT NULL, sibling_image TEXT NOT NULL, spec TEXT NOT NULL, "
        'device TEXT NOT NULL, "commit" TEXT NOT NULL, versions TEXT NOT NULL, finished TEXT NOT NULL)',
        "CREATE TABLE specs (hash TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, text TEXT NOT NULL, "
        "added TEXT NOT NULL)",
        "CREATE TABLE claims (unit TEXT PRIMARY KEY NOT NULL, owner TEXT NOT NULL)",
    ),
    ("ALTER TABLE cells ADD COLUMN packed INTEGER",),
]
"""What makes a store of version n out of one of version n - 1. An entry never changes once stores exist
that it made: a column more is an entry more."""


def version_of(connection: sqlite3.Connection) -> int:
    """Return the version of a store, 0 of an empty file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a store, or an empty file, to the version that this code knows: wholly, or not at all."""
    connection.execute("PRAGMA journal_mode = WAL")
    with transaction(connection):
        for statements in MIGRATIONS[version_of(connection) :]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Do all or nothing, one writer at a time."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def flatten(record: Record) -> Row:
    """Return a record as a row; a figure that is NaN is None there, and zero has no sign.

    Raises:
        InputError: it has a figure of an unknown name, or one that is no number of its kind.
    """
    unknown = set(record.figures) - set(FIGURES)
    if unknown:
        raise InputError(f"cell {record.cell.id}: expected the figures of FIGURES, found {min(unknown)!r}")
    row: Row = {"id": record.cell.id, "status": record.status, "reason": _clean(record.reason)}
    row |= {name: getattr(record.cell, name) for name in CELL_FIELDS}
    row |= {name: _number(record.figures.get(name), FIGURES[name]) for name in FIGURES}
    row |= {"curve": _curve_text(record.curve)} | {name: getattr(record, name) for name in PROVENANCE}
    for name in (name for name, kind in COLUMNS.items() if kind is int):
        if row[name] is not None and not _is_whole(row[name]):
            raise InputError(
                f"cell {record.cell.id}: expected {name} whole and below 2⁶³, found {row[name]!r}"
            )
    return row


def _clean(text: str) -> str:
    """Return text that UTF-8 can hold: a reason may quote the name of a file that it cannot."""
    return text.encode(errors="backslashreplace").decode()


def _number(value: Any, kind: type[int] | type[float]) -> Any:
    """Return a number of Python's own, which numpy's are not for SQLite."""
    if value is None or math.isnan(value):
        return None
    # SQLite keeps whole floats as integers, which have no -0.0; adding 0 makes it 0.0 everywhere.
    return float(value) + 0.0 if kind is float else int(value) if _is_whole(value) else value


def _is_whole(value: Any) -> bool:
    return math.isfinite(value) and abs(int(value)) < 2**63 and bool(int(value) == value)


def _curve_text(curve: tuple[CurvePoint, ...]) -> str:
    """Return JSON, with floats that JSON does not know as texts."""
    rows = [[x if math.isfinite(x) else repr(float(x)) for x in point] for point in curve]
    return json.dumps(rows, allow_nan=False)


def record_of(row: Row) -> Record:
    """Return the record that `flatten` made a row of.

    Its figures have all names, or none where no figure is known.

    Raises:
        InputError: the row is of no record: its id is not its cell's, its status or its curve is none.
    """
    cell = SweepCell(**{name: row[name] for name in CELL_FIELDS})
    if cell.id != row["id"]:
        raise InputError(
            f"cell {row['id']}: expected the id {cell.id} for its fields; one of them was altered"
        )
    if row["status"] not in get_args(Status):
        raise InputError(f"cell {cell.id}: expected ok, failed or skipped as status, found {row['status']!r}")
    figures = {name: row[name] for name in FIGURES}
    known = any(value is not None for value in figures.values())
    return Record(
        cell=cell,
        status=row["status"],
        reason=row["reason"],
        figures=figures if known else {},
        curve=_curve(row),
        **{name: row[name] for name in PROVENANCE},
    )


def _curve(row: Row) -> tuple[CurvePoint, ...]:
    try:
        points = [(int(n), float(s), float(loss), float(mse)) for n, s, loss, mse in json.loads(row["curve"])]
    except (ValueError, TypeError) as error:
        raise InputError(
            f"cell {row['id']}: expected a curve [[evaluations, seconds, loss, mse], ...], "
            f"found {row['curve']!r:.60}"
        ) from error
    return tuple(CurvePoint(*point) for point in points)
