"""Which runners of a store live: each holds a lock on a file, which the kernel lets go when it ends."""

import fcntl
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["RunnerLock", "is_alive", "one_at_a_time", "remove_dead"]


class RunnerLock:
    """A lock as long as this object, or its process, lives; `kill -9` ends it too.

    A child made by a bare fork shares it: until that ends as well, the runner seems alive. Processes that
    are started anew (spawn, subprocess) do not.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.name = uuid.uuid4().hex
        self._path = lock_path(folder, self.name)
        self._file = self._path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def close(self) -> None:
        """Let the lock go and remove its file."""
        self._path.unlink(missing_ok=True)
        self._file.close()


def lock_path(folder: Path, name: str) -> Path:
    """Return the file that a runner locks."""
    return folder / f"{name}.lock"


def is_alive(folder: Path, name: str) -> bool:
    """Return whether a runner holds its lock."""
    try:
        file = lock_path(folder, name).open("rb")
    except FileNotFoundError:
        return False
    with file:
        try:
            # Shared: two that ask at once must not take each other for the runner.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def remove_dead(folder: Path) -> None:
    """Remove the files of runners that are no more; only where no other runner can be making its own."""
    for path in folder.glob("*.lock"):
        if not is_alive(folder, path.stem):
            path.unlink(missing_ok=True)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Wait until no other process is inside with the same file."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
