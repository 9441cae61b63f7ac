"""What stands for the values beside a file's tensors: of any class, without anything of that class."""

import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

__all__ = ["StandIn", "as_tensor", "check_name", "stand_in"]

RUNS_SOMETHING = re.compile(
    r"(asyncio|code|commands|ctypes|importlib|multiprocessing|nt|os|pickle|posix|pty|runpy|shutil|socket"
    r"|subprocess|sys|threading|webbrowser)\..*|builtins\.(?!(bool|bytearray|bytes|complex|dict|float|frozenset"
    r"|int|list|object|range|set|slice|str|tuple|type)$).*",
    re.DOTALL,
)
"""Names that a file asks for to have something run, and never to describe a value."""

ARRAY = re.compile(r"numpy\.(_core|core)\.multiarray\._reconstruct")
NUMBERS = re.compile(r"[fiu][1248]|b1")
"""NumPy's codes of floats, integers and truth values, with their bytes."""


class StandIn:
    """Stands for a value whose class or maker a file names; nothing of that name is imported or called."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Items(StandIn):
    """Stands for a class whose values are filled by keys: they become plain dictionaries."""

    def __new__(cls, *_: object) -> OrderedDict[object, object]:  # type: ignore[misc]
        return OrderedDict()


class _Members(StandIn):
    """Stands for a class whose values are appended to: they become plain lists."""

    def __new__(cls, *_: object) -> list[object]:  # type: ignore[misc]
        return []


def check_name(name: str) -> None:
    """Raise `pickle.UnpicklingError` for a name that a file needs to run something, and for no value."""
    if RUNS_SOMETHING.fullmatch(name):
        raise pickle.UnpicklingError(f"GLOBAL {name}")


def stand_in(name: str, filled: Collection[str]) -> type[StandIn]:
    """Return the class that answers to "module.name" in a file.

    Args:
        name: what the file asks for.
        filled: how the file fills values of it: by "items", by "members", or neither.
    """
    kind = _Items if "items" in filled else _Members if "members" in filled else StandIn
    module, _, rest = name.rpartition(".")
    return type(rest, (kind,), {"__module__": module})


def as_tensor(value: object) -> Tensor | None:
    """Return a tensor, or what a NumPy array's stand-in holds as one; None for anything else."""
    if isinstance(value, Tensor):
        return value
    kind = type(value)
    if not isinstance(value, StandIn) or not ARRAY.fullmatch(f"{kind.__module__}.{kind.__qualname__}"):
        return None
    match value.state:
        case (
            _,
            tuple(shape),
            StandIn(arguments=(str(code), *_), state=(_, str(order), *_)),
            by_columns,
            bytes(content),
        ):
            return _array(shape, code, order, bool(by_columns), content)
    return None


def _array(
    shape: tuple[object, ...], code: str, order: str, by_columns: bool, content: bytes
) -> Tensor | None:
    if (
        not NUMBERS.fullmatch(code)
        or order not in "<>|="
        or not all(type(n) is int and n >= 0 for n in shape)
    ):
        return None
    kind = np.dtype(f"{order}{code}")
    size: tuple[int, ...] = shape  # type: ignore[assignment]
    if math.prod(size) * kind.itemsize != len(content):
        return None
    values = np.frombuffer(content, kind).astype(kind.newbyteorder("="))
    return torch.from_numpy(values.reshape(size, order="F" if by_columns else "C"))
