"""Which folders a run may write to."""

import os
from pathlib import Path

from ggl.base.errors import CheckpointError, InputError

__all__ = ["check_folder", "check_place"]


def check_folder(out: Path) -> None:
    """Refuse a place for results that is no folder or cannot be written to; nothing is created."""
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise InputError(f"{out}: expected a folder for the results, but {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{out}: expected a folder that can be written to, but {there} cannot")


def check_place(out: Path, resume: bool, *, checkpoints: str, result: str) -> None:
    """Refuse a folder that holds another such run; nothing is created.

    Args:
        out: the folder.
        resume: whether an unfinished run there is to be continued.
        checkpoints: name of the folder in it that an unfinished run leaves.
        result: name of the file in it that a finished run leaves.

    Raises:
        CheckpointError: there is nothing to resume.
        InputError: a run lies there, or the folder cannot be written to.
    """
    check_folder(out)
    unfinished = (out / checkpoints).is_dir()
    if resume and not unfinished:
        raise CheckpointError(f"{out}: holds no unfinished run to resume; leave --resume out")
    if resume:
        return
    if unfinished:
        raise InputError(f"{out}: holds an unfinished run; add --resume, or choose another folder")
    if (out / result).exists():
        raise InputError(f"{out}: holds a finished run already; choose another folder, or delete it")
