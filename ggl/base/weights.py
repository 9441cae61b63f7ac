"""Weight files: written whole or not at all, read as tensors only, never executed."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from ggl.base.errors import WeightsError
from ggl.base.files import write_atomically
from ggl.base.torch_files import parse_torch

__all__ = [
    "load_state",
    "load_tensors",
    "load_tensors_and_metadata",
    "save_tensors",
    "tensors_of",
]


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors as safetensors, atomically."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, to_safetensors(plain, dict(metadata or {})))


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from `.safetensors`, or from a torch file by its weights-only reader.

    Raises:
        WeightsError: the file is missing, it is cut short, or it holds anything but tensors (code in it is
            refused, never run).
    """
    return tensors_of(path, load_state(path))


def load_state(path: str | Path) -> object:
    """Read what a file of weights holds: tensors, and dictionaries of them, beside plain values.

    Raises:
        WeightsError: as `load_tensors`, but for what a state dict must hold.
    """
    path = Path(path)
    content = _read(path)
    return _parse_safetensors(path, content) if path.suffix == ".safetensors" else parse_torch(path, content)


def load_tensors_and_metadata(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file, whatever its suffix, with its text metadata; errors as in `load_tensors`."""
    path = Path(path)
    content = _read(path)
    tensors = tensors_of(path, _parse_safetensors(path, content))
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict):
        raise WeightsError(
            f"{path}: expected texts by name as metadata, found {type(metadata).__name__}; write it again"
        )
    return tensors, metadata


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"{path}: expected a weights file, but it cannot be read ({error.strerror})"
        ) from error


def _parse_safetensors(path: Path, content: bytes) -> object:
    try:
        return parse_safetensors(content)
    except SafetensorError as error:
        raise WeightsError(
            f"{path}: expected a whole safetensors file, found a damaged one ({error}); fetch it again"
        ) from error
    except KeyError as error:
        raise WeightsError(
            f"{path}: expected tensors of types that torch has, found {error}; convert it to float32"
        ) from error


def tensors_of(path: str | Path, state: object) -> dict[str, Tensor]:
    """Return the tensors of what a file holds, by name, or of its entry `state_dict`.

    Raises:
        WeightsError: it is no dictionary, is empty, holds something that is not a tensor, or two of a
            name once the prefix `module.` of data-parallel models is off.
    """
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state:
        raise WeightsError(f"{path}: expected a state dict of tensors, found {type(state).__name__}")
    strange = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if strange:
        raise WeightsError(f"{path}: expected tensors only, but {strange[0]!r} is not one")
    tensors = {str(name).removeprefix("module."): value for name, value in state.items()}
    if len(tensors) < len(state):
        raise WeightsError(
            f"{path}: expected each tensor once, found names that differ by 'module.' only; take it off them"
        )
    return tensors
