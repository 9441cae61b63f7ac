"""The errors that ggl raises: each says what was expected, what came, and what to do."""

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEBUG = "GGL_DEBUG"
"""The environment variable that has the command line show tracebacks."""

ELSEWHERE = "_place_elsewhere"
"""An attribute of errors that another process raised."""


class GGLError(Exception):
    """Base of every error that ggl raises on purpose; the command line ends with code 2 on it.

    Examples:
        >>> try:
        ...     ggl.load_defense("prunee:0.9")
        ... except ggl.GGLError as error:
        ...     print(str(error).partition(";")[0])
        no defense is named 'prunee'
    """


class InputError(GGLError, ValueError):
    """An argument, a file or a folder is not what was asked for."""


class UnknownNameError(InputError):
    """A name is not registered; the message holds the nearest known one."""


class WeightsError(GGLError, ValueError):
    """A weights file is missing, cut short, altered, or holds something that is not a tensor."""


class CheckpointError(GGLError, ValueError):
    """A saved run does not belong to the settings it is resumed with, or cannot be read."""


class GradientError(GGLError, RuntimeError):
    """A gradient is zero or not finite, so that there is nothing to match."""


class DeviceError(GGLError, RuntimeError):
    """A device was asked for that is not there."""


class UserCodeError(GGLError, RuntimeError):
    """Code that was brought (a victim, a loss, a prior, a defense, a strategy) raised."""


@contextmanager
def users_code(what: str) -> Iterator[None]:
    """Turn what code that was brought raises into one line with the cause; errors of ours stay.

    Args:
        what: runs here, for the message ("victim 'mynet:build'").

    Raises:
        UserCodeError: it raised.
    """
    try:
        yield
    except (GGLError, MemoryError, Warning):
        raise
    except Exception as error:
        raise UserCodeError(f"{what} raised {cause(error)}; {DEBUG}=1 shows the traceback") from error


def cause(error: BaseException) -> str:
    """Return an error's type and first line, and where in the user's own files it was raised, if it was."""
    words = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {words[0]}" if words else type(error).__name__
    place = users_line(error)
    return text if place is None else f"{text} ({place})"


def place_elsewhere(error: BaseException, place: str) -> None:
    """Say of an error from another process where it was raised there, as `users_line` has it."""
    vars(error)[ELSEWHERE] = place


def users_line(error: BaseException) -> str | None:
    """Return "net.py, line 7": where an error was raised, of code that is neither ggl's nor installed."""
    if ELSEWHERE in vars(error):
        return str(vars(error)[ELSEWHERE])
    for frame, line in reversed([*traceback.walk_tb(error.__traceback__)]):
        file = Path(frame.f_code.co_filename)
        ours = str(frame.f_globals.get("__name__", "")).partition(".")[0] == "ggl"
        if not ours and file.is_file() and not _is_installed(file):
            return f"{file.name}, line {line}"
    return None


def _is_installed(file: Path) -> bool:
    packages = {"site-packages", "dist-packages"} & {*file.parts}
    return bool(packages) or file.is_relative_to(sysconfig.get_path("stdlib"))
