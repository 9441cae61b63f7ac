"""Torch's own files, checked before and after torch's weights-only reader: tensors and plain values only.

The reader runs no code, but a made-up file can crash it or fill the memory: it hashes a dictionary's key
without a limit to its depth, unpacks compressed members, and expands a few bytes to a tensor of any shape.
"""

import io
import pickle
import pickletools
import re
import struct
import zipfile
from contextlib import suppress

import torch
from torch import Tensor

from ggl.base.errors import WeightsError

__all__ = ["DAMAGED", "parse_torch"]

DAMAGED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)
"""What torch's reader was seen to raise, or may, on files cut short or with altered bytes."""

DEEPEST = 100
"""Tuples within tuples; a file of weights has about three."""
LEGACY_PICKLES = 5
"""What a file of torch before 1.6 begins with: a mark, a version, the platform, the object, its storages."""


def parse_torch(path: object, content: bytes) -> object:
    """Return what a torch file holds; `path` is for the messages.

    Raises:
        WeightsError: it is damaged, asks for code, or is made such that reading or using it would crash
            or take far more memory than its own size.
    """
    try:
        _check(content)
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        _check_tensors(state)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: expected tensors only, found {_found(error)}; "
            "use a file of tensors only, such as .safetensors"
        ) from error
    except DAMAGED as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(
            f"{path}: expected a torch state dict, found a damaged file ({reason}); fetch it again"
        ) from error
    return state


class _Refused(pickle.UnpicklingError):
    """The file is refused; the text says what was found."""


def _found(error: pickle.UnpicklingError) -> str:
    """Return what was found, without the reader's own advice, which is to run the code."""
    if isinstance(error, _Refused):
        return f"{error}; refused"
    asked = re.search(r"GLOBAL (\S+)", str(error))
    return "something else; refused" + (f" (it asks for {asked[1][:80]!a})" if asked else "")


def _check(content: bytes) -> None:
    """Refuse what would crash the reader or unpack to more than the file holds."""
    file = io.BytesIO(content)
    if content[:4] != b"PK\x03\x04":  # the reader's own rule for what is a zip
        with suppress(ValueError):  # past a byte that is no instruction the reader stops as well
            for _ in range(LEGACY_PICKLES):
                _check_nesting(file)
        return
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise _Refused("compressed members, which torch never writes")
    if sum(member.file_size for member in members) > len(content):
        raise _Refused("members larger than the file")
    # torch's own zip reader, such that the pickle which is checked is the one that is loaded
    reader = torch._C.PyTorchFileReader(io.BytesIO(content))
    if "constants.pkl" in reader.get_all_records():
        raise _Refused("TorchScript, a program")
    _check_nesting(io.BytesIO(reader.get_record("data.pkl")))


def _check_nesting(file: io.BytesIO) -> None:
    """Refuse a pickle in which tuples lie deeper than `DEEPEST`; what follows its end stays unread.

    Only the depths go onto the stack. A list or dictionary counts as none: it has no hash, so that the
    reader's recursion ends there.

    Raises:
        ValueError, LookupError: it is no whole pickle.
    """
    marks: list[list[int]] = []
    stack: list[int] = []
    memo: dict[object, int] = {}
    for code, argument, _ in pickletools.genops(file):
        if code.name == "MARK":
            marks.append(stack)
            stack = []
        elif code.name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            memo[len(memo) if code.name == "MEMOIZE" else argument] = stack[-1]
        elif code.name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        else:
            used: list[int] = []
            takes = [kind.name for kind in code.stack_before]
            if "mark" in takes:
                used, stack = stack, marks.pop()
                takes = takes[: takes.index("mark")]
            used += [stack.pop() for _ in takes]
            stack += [_depth(code, used)] * len(code.stack_after)


def _depth(code: pickletools.OpcodeInfo, used: list[int]) -> int:
    """Return how deep tuples lie in what an instruction makes of values of such depths."""
    made = code.stack_after[0].name if code.stack_after else ""
    depth = 0 if made in ("list", "dict", "set") else max(used, default=0)
    if made == "tuple":
        depth += 1
    if depth > DEEPEST:
        raise _Refused(f"tuples more than {DEEPEST} deep")
    return depth


def _check_tensors(state: object) -> None:
    """Refuse tensors that are not an array of as many values as the file holds for them."""
    seen: set[int] = set()
    pending = [state]
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            _check_tensor(value)
        elif isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list | tuple | set):
            pending += value


def _check_tensor(tensor: Tensor) -> None:
    if tensor.is_meta or tensor.is_quantized or tensor.is_nested or tensor.layout != torch.strided:
        raise _Refused("a tensor without plain values (meta, sparse, quantized or nested)")
    held = tensor.untyped_storage().nbytes() // tensor.itemsize
    if tensor.numel() > held:
        raise _Refused(f"a tensor of shape {list(tensor.shape)} out of {held:,} values")
