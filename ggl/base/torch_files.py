"""Torch's own files, checked before and after torch's weights-only reader: tensors and plain values only.

The reader runs no code, but a made-up file can crash it or fill the memory: it hashes a dictionary's key
without a limit to its depth, unpacks compressed members, and expands a few bytes to a tensor of any shape.
What a file names beside its tensors, such as training options of some class, is answered by stand-ins.
"""

import io
import pickle
import pickletools
import re
import struct
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from contextlib import suppress
from typing import TypeAlias

import torch
from torch import Tensor

from ggl.base.errors import WeightsError
from ggl.base.stand_ins import check_name, stand_in

__all__ = ["DAMAGED", "parse_torch"]

_Value: TypeAlias = tuple[int, str]
"""Of a value on a pickle's stack: how deep tuples lie in it, and the name that it was made by."""

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
MOST_NAMES = 500
"""That a file asks for; a checkpoint has a few dozen, and torch's reader goes through all at each call."""
FILLING = {"SETITEM": "items", "SETITEMS": "items", "APPEND": "members", "APPENDS": "members"}
KEEPING = {*FILLING, "REDUCE", "NEWOBJ", "BUILD"}
"""Instructions whose lowest operand says by which name their value was made."""
MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
"""That a file of torch before 1.6 begins with."""
PROTOCOL = 2
LEGACY_PICKLES = 5
"""What a file of torch before 1.6 begins with: a mark, a version, the platform, the object, its storages."""


def parse_torch(path: object, content: bytes) -> object:
    """Return what a torch file holds; `path` is for the messages.

    Raises:
        WeightsError: it is damaged, asks for code, or is made such that reading or using it would crash
            or take far more memory than its own size.
    """
    try:
        names = _check(content)
        with torch.serialization.safe_globals([stand_in(name, filled) for name, filled in names.items()]):
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


def _check(content: bytes) -> dict[str, set[str]]:
    """Refuse what would crash the reader, run something, or unpack to more than the file holds.

    Returns:
        What the file names, "module.name", and how it fills values of it: by "items", by "members".
    """
    file = io.BytesIO(content)
    names: dict[str, set[str]] = {}
    if content[:4] != b"PK\x03\x04":  # the reader's own rule for what is a zip
        if content[:1] == b"\x80" and MAGIC not in content[:40]:
            raise _Refused(
                "a plain pickle: write a state dict by torch.save(state_dict, file), arrays by "
                "np.savez(file, *arrays)"
            )
        with suppress(ValueError):  # past a byte that is no instruction the reader stops as well
            for _ in range(LEGACY_PICKLES):
                names |= _check_pickle(file)
        return names
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    if any(member.filename.endswith("/constants.pkl") for member in members):
        raise _Refused("TorchScript, a program")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise _Refused("compressed members, which torch never writes")
    if sum(member.file_size for member in members) > len(content):
        raise _Refused("members larger than the file")
    # torch's own zip reader, such that the pickle which is checked is the one that is loaded
    reader = torch._C.PyTorchFileReader(io.BytesIO(content))
    return _check_pickle(io.BytesIO(reader.get_record("data.pkl")))


def _check_pickle(file: io.BytesIO) -> dict[str, set[str]]:
    """Refuse a pickle in which tuples lie deeper than `DEEPEST`, or that names what runs something.

    What follows its end stays unread. Only depths go onto the stack, with the name that a value was made
    by. A list or dictionary counts as no depth: it has no hash, so that the reader's recursion ends there.

    Returns:
        As `_check`.

    Raises:
        ValueError, LookupError: it is no whole pickle.
    """
    names: dict[str, set[str]] = {}
    marks: list[list[_Value]] = []
    stack: list[_Value] = []
    memo: dict[object, _Value] = {}
    for code, argument, _ in pickletools.genops(file):
        if code.name == "MARK":
            marks.append(stack)
            stack = []
        elif code.name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            memo[len(memo) if code.name == "MEMOIZE" else argument] = stack[-1]
        elif code.name == "PROTO" and argument is not None and argument > PROTOCOL:
            raise _Refused(f"pickle protocol {argument}: write it by torch.save without pickle_protocol")
        elif code.name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif code.name == "GLOBAL":
            name = _modern(str(argument))
            check_name(name)
            names.setdefault(name, set())
            if len(names) > MOST_NAMES:
                raise _Refused(f"more than {MOST_NAMES} names")
            stack.append((0, name))
        else:
            used: list[_Value] = []
            takes = [kind.name for kind in code.stack_before]
            if "mark" in takes:
                used, stack = stack, marks.pop()
                takes = takes[: takes.index("mark")]
            used += [stack.pop() for _ in takes]
            maker = used[-1][1] if used and code.name in KEEPING else ""
            if maker in names and code.name in FILLING:
                names[maker].add(FILLING[code.name])
            stack += [(_depth(code, [depth for depth, _ in used]), maker)] * len(code.stack_after)
    return names


def _modern(argument: str) -> str:
    """Return "module.name" of an instruction's "module name", Python 2's names as Python 3's."""
    module, _, name = argument.partition(" ")
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


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
    pending = [("", state)]
    while pending:
        name, value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            _check_tensor(name, value)
        elif isinstance(value, dict):
            pending += [(str(key)[:80], inner) for key, inner in value.items()]
        elif isinstance(value, list | tuple | set):
            pending += [(name, inner) for inner in value]


def _check_tensor(name: str, tensor: Tensor) -> None:
    kind = _kind(tensor)
    if kind:
        raise _Refused(f"a tensor without plain values ({kind}) as {name!r}")
    held = tensor.untyped_storage().nbytes() // tensor.itemsize
    if tensor.numel() > held:
        raise _Refused(f"a tensor of shape {list(tensor.shape)} out of {held:,} values")


def _kind(tensor: Tensor) -> str:
    """Return what a tensor is that is no plain array; empty for one that is."""
    kinds = {
        "on meta, so that the file holds none": tensor.is_meta,
        "quantized: save it after dequantize()": tensor.is_quantized,
        "nested": tensor.is_nested,
        "sparse: save it after to_dense()": tensor.layout != torch.strided,
    }
    return next((kind for kind, is_one in kinds.items() if is_one), "")
