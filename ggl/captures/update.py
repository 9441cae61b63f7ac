"""A client's update as it was captured: one model's weights before and after local training, in two files."""

import copy
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ggl.base.errors import GradientError, InputError, WeightsError
from ggl.base.weights import load_tensors, tensors_of
from ggl.gradients import Gradients
from ggl.victims.loading import check_state

__all__ = ["Captured", "captured_update"]

SUFFIXES = (".safetensors", ".npz", ".pt", ".pth")
UNREADABLE = (
    EOFError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy and torch raise on a damaged npz file, on objects in it, and on types that torch has not."""
WRAPPERS = ("_module.", "module.")
"""What Opacus and torch's data-parallel wrappers put before every name."""


@dataclass(frozen=True, eq=False)
class Captured:
    """What a client's local training changed, in units of gradients.

    Attributes:
        gradients: (before - after) / learning rate of the parameters that the victim trains: after one
            step of SGD the gradient, after several their sum, with momentum that of the velocities.
        victim: a copy of the victim with the weights and buffers of `before`, in the victim's own mode.
        learning_rate: by which the difference was divided.
        rounding: the spacing of numbers, relative to 1, in the coarsest type in which a file holds a
            trained parameter: 1.2e-7 for float32, 9.8e-4 for float16, 7.8e-3 for bfloat16. Entries of
            `gradients` below rounding · |weight| / learning rate are lost.
        trained_in_train_mode: whether running statistics of batch normalization differ between the
            files. None for a victim without them. False may also be a client that does not send them.
        after: the victim's weights and buffers after local training, by name: what running statistics imply
            of the batch is in `ggl.captures.batch_statistics`.
    """

    gradients: Gradients
    victim: nn.Module
    learning_rate: float
    rounding: float
    trained_in_train_mode: bool | None
    after: dict[str, Tensor]

    @property
    def before(self) -> dict[str, Tensor]:
        """Return the victim's weights and buffers before local training, by name."""
        return dict(self.victim.state_dict())


def captured_update(
    victim: nn.Module, before: str | Path, after: str | Path, *, learning_rate: float
) -> Captured:
    """Read a client's update from two files of the victim's weights.

    A file is `.safetensors`, `.npz` (one array a name) or a torch state dict (`.pt`, `.pth`); code in a
    pickle is refused, never run. The prefixes `_module.` (Opacus) and `module.` (data-parallel) are taken
    off where they stand before every name. Files of 16-bit floats are widened without a word, which does
    not bring back what they lost: see `Captured.rounding`.

    Args:
        victim: the client's network; says which names are parameters that are trained. It stays as it is.
        before: the weights that the client started from.
        after: the weights after its local training.
        learning_rate: of the client's SGD; with 1.0 the update is the plain difference of the weights.

    Raises:
        InputError: a file's kind is unknown, or the learning rate is not a finite number above 0.
        WeightsError: a file cannot be read, or its names, shapes, types or values are not the victim's.
        GradientError: nothing that is trained differs, or the update is not finite at this rate.
    """
    if not 0 < learning_rate < math.inf:
        raise InputError(f"expected a learning rate that is finite and above 0, found {learning_rate:g}")
    model = copy.deepcopy(victim)
    expected = dict(model.state_dict())
    old, new = (_read_state(Path(path), expected) for path in (before, after))
    model.load_state_dict(old)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    _check_frozen(model, old, new, after)
    gradients = {
        name: ((old[name].double() - new[name].double()) / learning_rate).to(p) for name, p in trained.items()
    }
    _check_update(gradients, before, after, learning_rate)
    coarsest = max(torch.finfo(state[name].dtype).eps for state in (old, new) for name in trained)
    return Captured(gradients, model, learning_rate, coarsest, _statistics_moved(model, old, new), new)


def _read_state(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a file's tensors under the victim's names, in the file's own float types."""
    given = _bare(_read(path))
    own_names = dict(zip(_bare(expected), expected, strict=True))
    state = {own_names.get(name, name): tensor for name, tensor in given.items()}
    for key in state.keys() & expected.keys():
        if _is_count(expected[key]):
            # a server that averages counts of batches makes floats of them
            state[key] = state[key].to(expected[key].dtype)
    check_state(path, state, expected)
    for key in expected:
        if not state[key].isfinite().all():
            raise WeightsError(
                f"{path}: {key!r}: expected finite values, found NaN or infinity; capture another round"
            )
    return state


def _is_count(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() and not tensor.is_complex()


def _bare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off what wrappers put before every name; `module.` also off single ones, as `load_tensors`."""
    bare = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    if len(bare) < len(tensors):
        return dict(tensors)
    for prefix in WRAPPERS:
        if bare and all(name.startswith(prefix) for name in bare):
            return _bare({name.removeprefix(prefix): tensor for name, tensor in bare.items()})
    return bare


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"{path}: expected a file that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, "
            f"found {path.suffix or 'no suffix'!r}; save the state dict as one of these"
        )
    return _read_npz(path) if path.suffix == ".npz" else load_tensors(path)


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as arrays:
            tensors = {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays}
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise WeightsError(
            f"{path}: expected an npz file of plain arrays, but it cannot be read ({reason}); write it again"
        ) from error
    return tensors_of(path, tensors)


def _check_frozen(
    model: nn.Module, old: Mapping[str, Tensor], new: Mapping[str, Tensor], after: str | Path
) -> None:
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and not torch.equal(old[name], new[name]):
            raise WeightsError(
                f"{after}: {name!r}: expected no change, as the victim does not train it, found one; "
                "set requires_grad as the client has it"
            )


def _check_update(gradients: Gradients, before: str | Path, after: str | Path, learning_rate: float) -> None:
    if not any(g.any() for g in gradients.values()):
        raise GradientError(
            f"{after}: expected weights after local training, found those of {before} unchanged: "
            "there is nothing to match; save it after the client's steps"
        )
    for name, g in gradients.items():
        if not g.isfinite().all():
            raise GradientError(
                f"{after}: {name!r}: expected a finite update, found the difference divided by the learning "
                f"rate {learning_rate:g} too large; give the rate that the client used"
            )


def _statistics_moved(model: nn.Module, old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> bool | None:
    prefixes = [
        f"{name}." if name else ""
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None
    ]
    names = [prefix + part for prefix in prefixes for part in ("running_mean", "running_var")]
    return any(not torch.equal(old[name], new[name]) for name in names) if names else None
