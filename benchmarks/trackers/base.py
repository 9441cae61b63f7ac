"""What a tracker is, and the guard that keeps its failures out of a sweep."""

import importlib
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ggl.base.distribution import install_command
from ggl.base.errors import InputError
from ggl.benchmarks.sweeps.records import Record

__all__ = ["Guarded", "NoTracker", "Tracker", "TrackerWarning", "import_package"]


class TrackerWarning(UserWarning):
    """A tracker failed and is closed; the sweep goes on."""


@runtime_checkable
class Tracker(Protocol):
    """Is told of a sweep while it runs, in the process that writes the store, from one thread.

    A store may hold several sweeps: after `close`, it may be started again with the next.
    """

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What it raises where a disk, a network or a service fails; anything else is a bug."""

    def start(self, name: str, settings: Mapping[str, object], total: int) -> None:
        """Begin, or go on where an earlier run of the same store ended.

        Args:
            name: the sweep's.
            settings: of the whole sweep and not of what is left of it; see `settings_of`.
            total: cells of the whole sweep.
        """

    def record(self, record: Record, done: int, failed: int) -> None:
        """Take what became of a cell: once for each that ends in this run, in any order.

        Args:
            record: ok, failed or skipped.
            done: cells of the sweep that have ended so far, in earlier runs too.
            failed: how many of them failed.
        """

    def close(self) -> None:
        """End: once, after Ctrl-C too."""


class NoTracker:
    """Tracks nothing."""

    errors: tuple[type[Exception], ...] = ()

    def __init__(self, folder: Path) -> None:
        """Take what every tracker is made with."""

    def start(self, name: str, settings: Mapping[str, object], total: int) -> None:
        """Do nothing."""

    def record(self, record: Record, done: int, failed: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Guarded:
    """A tracker whose failures do not end a sweep that has begun.

    One of the tracker's `errors` in the first `start` is an `InputError`: nothing has run yet. Later it is
    one `TrackerWarning`, the tracker is closed, and further calls do nothing.

    Args:
        specification: what the user asked for, for messages.
        tracker: what is guarded.
    """

    errors: tuple[type[Exception], ...] = ()

    def __init__(self, specification: str, tracker: Tracker) -> None:
        self._what, self._tracker = f"tracker {specification!r}", tracker
        self._begun = self._open = self._failed = False

    def start(self, name: str, settings: Mapping[str, object], total: int) -> None:
        """Begin.

        Raises:
            InputError: the tracker cannot start, and no sweep has begun with it.
        """
        if self._failed:
            return
        try:
            self._tracker.start(name, settings, total)
        except self._tracker.errors as error:
            if not self._begun:
                raise InputError(
                    f"{self._what} cannot start: {_line(error)}; mend that or leave it out: --tracker none"
                ) from error
            self._warn(error)
        else:
            self._begun = self._open = True

    def record(self, record: Record, done: int, failed: int) -> None:
        """Pass a record on, until the tracker has failed."""
        if self._open:
            try:
                self._tracker.record(record, done, failed)
            except self._tracker.errors as error:
                self._fail(error)

    def close(self) -> None:
        """Close the tracker, unless it has failed."""
        if self._open:
            self._open = False
            try:
                self._tracker.close()
            except self._tracker.errors as error:
                self._warn(error)

    def _fail(self, error: Exception) -> None:
        self._open = False
        with suppress(*self._tracker.errors):
            self._tracker.close()
        self._warn(error)

    def _warn(self, error: Exception) -> None:
        self._failed = True
        warnings.warn(
            f"{self._what} failed and is closed, the sweep goes on: {_line(error)}",
            TrackerWarning,
            stacklevel=4,
        )


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def import_package(module: str) -> Any:
    """Import a module of an optional package.

    Raises:
        InputError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise InputError(
            f"this tracker needs the package {package} ({error}): "
            f"{install_command(package)}, or leave it out: --tracker none"
        ) from error
