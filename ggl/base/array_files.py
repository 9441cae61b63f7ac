"""NumPy's files of arrays, read as tensors: plain numbers only, no objects."""

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ggl.base.errors import WeightsError

__all__ = ["is_npz", "parse_npz"]

UNREADABLE = (
    EOFError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy and torch raise on a damaged npz file, on objects in it, and on types that torch has not."""


def is_npz(content: bytes) -> bool:
    """Say whether these are the bytes of a zip with arrays in it."""
    if content[:4] != b"PK\x03\x04":
        return False
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except UNREADABLE:
        return False


def parse_npz(path: Path, content: bytes) -> dict[str, Tensor]:
    """Return the arrays of an npz file by name, in its order; `path` is for the messages.

    Raises:
        WeightsError: it is damaged, or holds objects, which are code, or other types than torch has.
    """
    try:
        with np.lib.npyio.NpzFile(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: _tensor(np.asarray(arrays[name])) for name in arrays}
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        advice = "write it again"
        if "allow_pickle" in reason:
            advice += " with one array an argument: np.savez(file, *arrays)"
        raise WeightsError(
            f"{path}: expected an npz file of plain arrays, but it cannot be read ({reason}); {advice}"
        ) from error


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
