"""The store of a sweep: one SQLite file with a row a cell, and pictures beside it.

Runners of one machine may work on one store at once. What a runner takes on, it claims; a claim holds as
long as its process lives. SQLite's write-ahead log needs memory that its users share, so that runners on
several machines must not open one store: let one of them write.
"""

import io
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ggl.base.errors import InputError
from ggl.base.files import write_atomically
from ggl.benchmarks.sweeps.cells import CELL_FIELDS
from ggl.benchmarks.sweeps.records import Record, Status
from ggl.benchmarks.sweeps.runner_locks import RunnerLock, is_alive, one_at_a_time, remove_dead
from ggl.benchmarks.sweeps.store_errors import explained
from ggl.benchmarks.sweeps.store_schema import (
    COLUMNS,
    MIGRATIONS,
    flatten,
    migrate,
    record_of,
    transaction,
    version_of,
)
from ggl.pages.templates import to_picture

__all__ = ["Store"]

WAIT = 60.0
"""Seconds to wait for another process that writes; a transaction takes milliseconds."""

NAMES = ", ".join(f'"{name}"' for name in COLUMNS)
ORDER = ", ".join(
    f'"{name}"' for name in (*(n for n in CELL_FIELDS if n not in ("seed", "image")), "seed", "image")
)
# Text from here that meets SQL is names of columns; values are bound.
READ = f"SELECT {NAMES} FROM cells ORDER BY {ORDER}"  # noqa: S608
WRITE = (
    f"INSERT INTO cells ({NAMES}) VALUES ({', '.join('?' * len(COLUMNS))}) ON CONFLICT (id) DO UPDATE SET "  # noqa: S608
    + ", ".join(f'"{name}" = excluded."{name}"' for name in COLUMNS)
    + " WHERE cells.status != 'ok'"
)


class Store:
    """Cells, specs and claims of a folder; one object belongs to one thread.

    Args:
        create: make the folder and the store where there is none.

    Raises:
        InputError: there is no store, it is damaged, of a newer version or of something else, or it cannot
            be made. Every method raises it where the file cannot be read or written; what was stored
            before stays.
    """

    def __init__(self, folder: Path, create: bool = False) -> None:
        self.folder = folder
        self.path = folder / "store.sqlite"
        self._log = folder / "store.sqlite-wal"
        self._runners = folder / "runners"
        self._runner: RunnerLock | None = None
        with explained(self.path):
            if create:
                folder.mkdir(parents=True, exist_ok=True)
                self._create()
            elif not self.path.is_file():
                raise InputError(
                    f"{folder}: expected a store (store.sqlite), found none; name another folder"
                )
            self._connection = self._open(create)
            try:
                self._make_ready()
            except (sqlite3.Error, OSError, InputError):
                self._connection.close()
                raise

    def _create(self) -> None:
        """Make a store where there is none; it appears whole, so that nobody meets one in the making."""
        with one_at_a_time(self.folder / "store.lock"):
            if self.path.exists() and self.path.stat().st_size > 0:
                return
            with TemporaryDirectory() as elsewhere:
                new = Path(elsewhere) / self.path.name
                with closing(sqlite3.connect(new, isolation_level=None)) as connection:
                    migrate(connection)
                # SQLite would bring the log of a store that was removed into this one.
                self._log.unlink(missing_ok=True)
                write_atomically(self.path, new.read_bytes())

    def _open(self, create: bool) -> sqlite3.Connection:
        connection = self._connect("rw")
        try:
            version_of(connection)
        except sqlite3.DatabaseError as error:
            connection.close()
            if create or not self._lies_still(error):
                raise
            connection = self._connect("ro&immutable=1")
        return connection

    def _lies_still(self, error: sqlite3.DatabaseError) -> bool:
        """Say whether the file holds everything and nobody writes: SQLite cannot make its files beside it."""
        logged = self._log.exists() and self._log.stat().st_size > 0
        return isinstance(error, sqlite3.OperationalError) and "locked" not in str(error) and not logged

    def _connect(self, mode: str) -> sqlite3.Connection:
        uri = f"{self.path.resolve().as_uri()}?mode={mode}"
        return sqlite3.connect(uri, uri=True, timeout=WAIT, isolation_level=None)

    def _make_ready(self) -> None:
        """Check the version and bring an older store to this one.

        A pack takes seconds and a sync milliseconds, so that every transaction is synced (FULL): even a
        power cut loses no stored pack.
        """
        self._connection.execute("PRAGMA synchronous = FULL")
        found, known = version_of(self._connection), len(MIGRATIONS)
        if found > known:
            raise InputError(
                f"{self.path}: expected a store of version {known} or older, found {found}; update ggl"
            )
        if found == 0:
            raise InputError(f"{self.path}: expected a store of ggl, found another file; name another folder")
        if found < known:
            # SQLite does not wait where two turn its log on at once.
            with one_at_a_time(self.folder / "store.lock"):
                migrate(self._connection)

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back what is claimed and close the file."""
        if self._runner is not None:
            # Where this cannot be written, the claims lapse with the lock all the same.
            with suppress(sqlite3.DatabaseError):
                self._connection.execute("DELETE FROM claims WHERE owner = ?", (self._runner.name,))
        self._connection.close()
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with explained(self.path), transaction(self._connection):
            yield self._connection

    def _read(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        with explained(self.path):
            return self._connection.execute(query, values).fetchall()

    def add_spec(self, hash: str, name: str, text: str) -> None:  # noqa: A002
        """Keep a spec; one that is there stays as it is."""
        with self._transaction() as connection:
            row = (hash, name, text, datetime.now(UTC).isoformat(timespec="seconds"))
            connection.execute(
                "INSERT OR IGNORE INTO specs (hash, name, text, added) VALUES (?, ?, ?, ?)", row
            )

    def specs(self) -> list[tuple[str, str, str]]:
        """Return hash, name and text of every spec in the order of adding."""
        return self._read("SELECT hash, name, text FROM specs ORDER BY rowid")

    def write(self, records: Sequence[Record]) -> None:
        """Keep records, all or none; a cell's newer record replaces an older one unless that is ok."""
        self.finish("", records)

    def records(self) -> list[Record]:
        """Return every record, by the fields of the cells in their order, seed and image last.

        A figure that was NaN is None, and one that was -0.0 is 0.0; all else comes back as it was.
        """
        return [record_of(dict(zip(COLUMNS, row, strict=True))) for row in self._read(READ)]

    def statuses(self) -> dict[str, str]:
        """Return the status of every cell by its id."""
        return dict(self._read("SELECT id, status FROM cells ORDER BY id"))

    def forget_failed(self) -> int:
        """Remove failed cells, so that they run again; return how many."""
        with self._transaction() as connection:
            return connection.execute("DELETE FROM cells WHERE status = 'failed'").rowcount

    def claim(self, unit: str, ids: Sequence[str], done: Collection[Status] = ("ok", "skipped")) -> bool:
        """Take on a unit of work, unless all its cells are done or a living runner has it.

        Args:
            unit: a name, the same for all runners.
            ids: of its cells.
            done: what a cell's status is where there is nothing left to do. With "failed" among them, what
                failed runs again after `forget_failed` alone, and not under a second runner.
        """
        with self._transaction() as connection:
            if all(_status(connection, id_) in done for id_ in ids):
                return False
            owner = connection.execute("SELECT owner FROM claims WHERE unit = ?", (unit,)).fetchone()
            if owner and is_alive(self._runners, owner[0]):
                return False
            if owner or self._runner is None:
                # Runners make their files within such a transaction alone: none is in the making now.
                remove_dead(self._runners)
            self._runner = self._runner or RunnerLock(self._runners)
            connection.execute("REPLACE INTO claims (unit, owner) VALUES (?, ?)", (unit, self._runner.name))
        return True

    def finish(self, unit: str, records: Sequence[Record]) -> None:
        """Keep a unit's records, as `write`, and give it back, both or neither; another's claim stays."""
        rows = [tuple(flatten(record).values()) for record in records]
        owner = "" if self._runner is None else self._runner.name
        with self._transaction() as connection:
            connection.executemany(WRITE, rows)
            connection.execute("DELETE FROM claims WHERE unit = ? AND owner = ?", (unit, owner))

    def claims(self) -> dict[str, bool]:
        """Return whether its runner lives of every claimed unit."""
        claims = self._read("SELECT unit, owner FROM claims ORDER BY unit")
        with explained(self._runners):
            alive = {owner: is_alive(self._runners, owner) for owner in {owner for _, owner in claims}}
        return {unit: alive[owner] for unit, owner in claims}

    def picture(self, cell_id: str, name: str) -> Path:
        """Return where a picture of a cell lies or would lie."""
        return self.folder / "images" / cell_id[:2] / f"{cell_id}-{name}.png"

    def keep_picture(self, cell_id: str, name: str, image: Float[Tensor, "c h w"]) -> None:
        """Write a picture with values in [0, 1] as a PNG of 8 bits, atomically."""
        path = self.picture(cell_id, name)
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, _png(image))


def _status(connection: sqlite3.Connection, id_: str) -> str | None:
    found = connection.execute("SELECT status FROM cells WHERE id = ?", (id_,)).fetchone()
    return None if found is None else str(found[0])


def _png(image: Float[Tensor, "c h w"]) -> bytes:
    content = io.BytesIO()
    to_picture(image).save(content, "PNG")
    return content.getvalue()
