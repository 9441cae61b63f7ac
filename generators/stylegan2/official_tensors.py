"""Tensors as official StyleGAN2-ADA pickles hold them: each storage a torch file of the legacy layout."""

import io
import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ggl.generators.stylegan2.inert_pickle import Maker, Name, read_pickle

__all__ = ["TENSOR_MAKERS", "StoredTensor"]

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
DTYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.DoubleStorage": torch.float64,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
MOST_AXES = 8


@dataclass(frozen=True, eq=False)
class _Storage:
    """`numel` values of `dtype`, in little-endian order."""

    key: str
    dtype: torch.dtype
    numel: int
    content: bytes = b""
    start: int = 0
    """Where in `content` the values begin; up to there is the stream's header."""

    @cached_property
    def values(self) -> Tensor:
        if not self.numel:
            return torch.empty(0, dtype=self.dtype)
        return torch.frombuffer(bytearray(memoryview(self.content)[self.start :]), dtype=self.dtype)


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor that was checked against its storage's bounds, but is not built yet."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that building it may take: those of its whole storage, of which it is a view."""
        return self.storage.numel * self.storage.dtype.itemsize

    @cached_property
    def tensor(self) -> Tensor:
        """The tensor; those of one storage share its memory."""
        return self.storage.values.as_strided(self.size, self.stride, self.offset)


def _storage_named(
    kind: object, storage: object, key: object, _: object, numel: object, view: object
) -> object:
    if kind != "storage" or not isinstance(storage, Name) or type(key) is not str or view is not None:
        raise ValueError("a storage is not described as torch describes one")
    if type(numel) is not int or numel < 0:
        raise ValueError("a storage has no size")
    return _Storage(key, DTYPES[storage.text], numel)


def _storage_of(content: object) -> object:
    """Return the storage of a legacy torch stream: four pickles, the keys, a count, and the values."""
    if type(content) is not bytes:
        raise ValueError("a storage is not held as bytes")
    file = io.BytesIO(content)
    if (read_pickle(file, {}), read_pickle(file, {})) != (LEGACY_MAGIC, LEGACY_PROTOCOL):
        raise ValueError("a storage is not in torch's legacy layout")
    system = read_pickle(file, {})
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("a storage is not in little-endian order")
    storage = read_pickle(file, dict.fromkeys(DTYPES), _storage_named)
    if not isinstance(storage, _Storage) or read_pickle(file, {}) != [storage.key]:
        raise ValueError("a storage stream holds something else")
    numel = int.from_bytes(file.read(8), "little")
    size = len(content) - file.tell()
    if numel != storage.numel or size != numel * storage.dtype.itemsize:
        raise ValueError(f"a storage of {storage.numel} values holds {size} bytes")
    return _Storage(storage.key, storage.dtype, numel, content, file.tell())


def _whole_numbers(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple) or len(values) > MOST_AXES:
        raise ValueError(f"a tensor's axes are not a tuple of at most {MOST_AXES}")
    if any(type(value) is not int or not 0 <= value < 2**31 for value in values):
        raise ValueError("a tensor's size, stride or offset is no whole number below 2³¹")
    return values


def _inside(numel: int, offset: int, size: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether a view reads within its storage, and is no larger than it."""
    if math.prod(size) == 0:
        return True
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    return last < numel and math.prod(size) <= numel


def _rebuild_tensor(
    storage: object, offset: object, size: object, stride: object, _gradient: object, _hooks: object
) -> object:
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor has no storage")
    (start,), sizes, strides = _whole_numbers((offset,)), _whole_numbers(size), _whole_numbers(stride)
    if not _inside(storage.numel, start, sizes, strides):
        raise pickle.UnpicklingError(f"a tensor of size {sizes} reads outside its {storage.numel} values")
    return StoredTensor(storage, start, sizes, strides)


def _rebuild_parameter(tensor: object, _gradient: object, _hooks: object) -> object:
    if not isinstance(tensor, StoredTensor):
        raise ValueError("a parameter is no tensor")
    return tensor


TENSOR_MAKERS: dict[str, Maker] = {
    "torch.storage._load_from_bytes": _storage_of,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
}
"""Makers of `StoredTensor` from the calls by which torch reduces a tensor; gradients and hooks are left."""
