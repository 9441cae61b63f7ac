"""What SQLite and the system say of a store's files, as one line that says what to do."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ggl.base.errors import InputError

__all__ = ["explained"]

FULL = "expected room to write, but the disk is full; free some and run it again: what was stored is kept"

FORBIDDEN = (
    "expected files that can be read and written, but they or their folder cannot ({error}); work on a copy"
)

ADVICE = {
    "disk is full": FULL,
    "No space left": FULL,
    "readonly": FORBIDDEN,
    "Read-only": FORBIDDEN,
    "Permission denied": FORBIDDEN,
    "not a database": "expected a store of ggl, found a file that SQLite does not know; move it away",
    "malformed": "expected a whole store, found a damaged one ({error}); put a copy of it in place, or save "
    "what can still be read with `sqlite3 store.sqlite .recover`",
    "unable to open": "expected a store in a folder that can be written to, but SQLite cannot open it; "
    "check the rights, or work on a copy",
    "locked": "expected a store that is free, but another process has written for a minute; end it",
}
"""What to do, by a part of the message."""

OTHERWISE = (
    "expected files that can be read and written, but that failed ({error}); check the disk and rights"
)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise `InputError` where a file, or the database in it, cannot be read or written.

    Misuse of SQLite and broken constraints are errors of the code and stay what they are.
    """
    try:
        yield
    except (sqlite3.ProgrammingError, sqlite3.IntegrityError):
        raise
    except (sqlite3.Error, OSError) as error:
        text = str(error.strerror if isinstance(error, OSError) else error)
        advice = next((advice for part, advice in ADVICE.items() if part in text), OTHERWISE)
        raise InputError(f"{path}: {advice.format(error=text)}") from error
