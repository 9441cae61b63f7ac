"""Weight files: written whole or not at all, read as tensors only, never executed."""

import json
import re
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from ggl.base.array_files import is_npz, parse_npz
from ggl.base.errors import InputError, WeightsError
from ggl.base.files import write_atomically
from ggl.base.packings import parts_of, refusal
from ggl.base.stand_ins import StandIn
from ggl.base.torch_files import parse_torch

__all__ = [
    "load_state",
    "load_tensors",
    "load_tensors_and_metadata",
    "save_state",
    "save_tensors",
    "tensors_of",
]

TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".tar", ".th", ".pkl")
"""Under which torch files are found; others are read where their bytes are a torch file's."""

OTHERS = {
    b"\x93NUMPY": "one NumPy array (.npy): write np.savez(file, *arrays)",
    b"\x89HDF": "HDF5, such as Keras writes",
    b"{": "JSON, such as the index of a file in parts",
}
"""Files of weights, or beside them, that are not read, by their first bytes."""

SHARD = re.compile(r"-\d{3,}-of-\d{3,}\.|^__\d+_\d+\.distcp$")
"""Names of a state dict's parts: of Hugging Face, and of torch.distributed.checkpoint."""


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors as safetensors, atomically."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, to_safetensors(plain, dict(metadata or {})))


def save_state(path: str | Path, state: Mapping[str, object]) -> None:
    """Write a training's state, tensors among plain values, as a torch file, atomically."""
    content = BytesIO()
    torch.save(dict(state), content)
    write_atomically(path, content.getvalue())


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from `.safetensors`, `.npz`, or a torch file by its weights-only reader.

    Raises:
        WeightsError: the file is missing, it is cut short, or it holds anything but tensors (code in it is
            refused, never run).
    """
    return tensors_of(path, load_state(path))


def load_state(path: str | Path) -> object:
    """Read what a file of weights holds: tensors, and dictionaries of them, beside plain values.

    Its bytes say of which kind it is, its suffix where they do not. Values of other classes in a torch file
    are stand-ins (`ggl.base.stand_ins`).

    Raises:
        InputError: it is of another kind.
        WeightsError: as `load_tensors`, but for what a state dict must hold.
    """
    path = Path(path)
    _check_whole(path)
    content = _read(path)
    if is_npz(content) or path.suffix == ".npz":
        return parse_npz(path, content)
    if _is_safetensors(content) or (path.suffix == ".safetensors" and not _is_torch(content)):
        return _parse_safetensors(path, content)
    other = next((kind for mark, kind in OTHERS.items() if content.startswith(mark)), None)
    if other is not None or not (_is_torch(content) or path.suffix in TORCH_SUFFIXES):
        raise InputError(
            f"{path}: expected weights as .safetensors, .npz or a torch file ({', '.join(TORCH_SUFFIXES)}), "
            f"found {other or repr(path.suffix or 'no suffix')}; "
            "save the state dict as one of these"
        )
    return parse_torch(path, content)


def _check_whole(path: Path) -> None:
    """Refuse a folder, and what is a part of a file alone."""
    if path.is_dir():
        held = ", ".join(sorted(child.name for child in path.iterdir())[:4]) or "nothing"
        raise WeightsError(
            f"{path}: expected a file of weights, found a folder with {held}; name a file, and bring weights "
            "that are spread over several into one by torch.save(model.state_dict(), file)"
        )
    if SHARD.search(path.name):
        raise WeightsError(
            f"{path}: expected the whole state dict, found one part of it, as its name says; load the model "
            "from all parts and save it as one file: torch.save(model.state_dict(), file)"
        )


def _is_torch(content: bytes) -> bool:
    """Say whether a file begins as torch's own do: a zip, or a pickle."""
    return content[:4] == b"PK\x03\x04" or content[:1] == b"\x80"


def _is_safetensors(content: bytes) -> bool:
    return content[8:9] == b"{" and int.from_bytes(content[:8], "little") <= len(content) - 8


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
    """Return the tensors of what a file holds, by name; of its one entry that holds any, or `state_dict`.

    Raises:
        WeightsError: it is no dictionary, is empty, holds something that is not a tensor, or two of a
            name once the prefix `module.` of data-parallel models is off.
    """
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    elif isinstance(state, dict) and not any(isinstance(value, Tensor) for value in state.values()):
        entries = parts_of(state)
        if len(entries) == 1 and not entries[0].listed:
            state = {**entries[0].tensors, **(entries[0].others or {})}
    values = state.values() if isinstance(state, dict) else [state]
    if any(isinstance(value, StandIn) for value in values):
        raise refusal(path, state)
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
