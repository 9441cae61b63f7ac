"""A client's update as it was captured: one model's weights before and after, or before and a difference."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ggl.base.errors import GradientError, InputError, WeightsError
from ggl.base.network_weights import FileWeights, read_weights
from ggl.captures.roles import check_is_difference, check_roles
from ggl.gradients import Gradients

__all__ = ["Captured", "captured_difference", "captured_update"]

FLOAT32 = torch.finfo(torch.float32).eps


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
        notes: a line for each file that is no plain state dict, what was found in it; and what rounding to 16
            bits hides.
        after: the victim's weights and buffers after local training, by name: what running statistics imply
            of the batch is in `ggl.captures.batch_statistics`.
    """

    gradients: Gradients
    victim: nn.Module
    learning_rate: float
    rounding: float
    trained_in_train_mode: bool | None
    after: dict[str, Tensor]
    notes: tuple[str, ...] = ()

    @property
    def before(self) -> dict[str, Tensor]:
        """Return the victim's weights and buffers before local training, by name."""
        return dict(self.victim.state_dict())


def captured_update(
    victim: nn.Module,
    before: str | Path,
    after: str | Path,
    *,
    learning_rate: float,
    before_key: str | None = None,
    after_key: str | None = None,
) -> Captured:
    """Read a client's update from two files of the victim's weights.

    A file is what `ggl.base.network_weights.read_weights` reads: a state dict or a list of arrays, as
    frameworks pack them, in `.safetensors`, `.npz` or a torch file; code in a pickle is never run. The
    weights after need not have buffers. Files of 16-bit floats are widened, which does not bring back what
    they lost: see `Captured.rounding`.

    Args:
        victim: the client's network; says which names are parameters that are trained, and, in eval mode,
            needs the running statistics of `before`. It stays as it is.
        before: the weights that the client started from.
        after: the weights after its local training.
        learning_rate: of the client's SGD; with 1.0 the update is the plain difference of the weights.
        before_key: the entry of `before` that is the victim, or the beginning of its tensors' names.
        after_key: that of `after`.

    Raises:
        InputError: a file's kind is unknown, or the learning rate is not a finite number above 0.
        WeightsError: a file cannot be read, its names, shapes, types or values are not the victim's, `after`
            holds a difference of weights, or the files are in the wrong order by their counts of batches.
        GradientError: nothing that is trained differs, or the update is not finite at this rate.

    Examples:
        >>> victim = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32)
        >>> torch.save(victim.state_dict(), "before.pt")
        >>> client = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32)
        >>> client(torch.rand(1, 1, 32, 32)).square().sum().backward()
        >>> with torch.no_grad():
        ...     for parameter in client.parameters():
        ...         parameter -= 0.1 * parameter.grad
        >>> torch.save(client.state_dict(), "after.pt")
        >>> captured = ggl.captured_update(victim, "before.pt", "after.pt", learning_rate=0.1)
        >>> len(captured.gradients) == len(list(victim.parameters()))
        True
    """
    _check_rate(learning_rate)
    model = copy.deepcopy(victim)
    old = read_weights(before, model, before_key)
    model.load_state_dict(old.tensors)
    new = read_weights(after, model, after_key, whole=False)
    trained = _trained(model)
    moved = {name for name in old.tensors if not torch.equal(old.tensors[name], new.tensors[name])}
    _check_frozen(model, moved, after)
    check_roles(before, after, old, new, list(trained))
    change = {name: old.tensors[name].double() - new.tensors[name].double() for name in trained}
    if not any(d.any() for d in change.values()):
        raise GradientError(
            f"{after}: expected weights after local training, found those of {before} unchanged: "
            "there is nothing to match; save it after the client's steps"
        )
    rounding = max(torch.finfo(read.tensors[name].dtype).eps for read in (old, new) for name in trained)
    notes = (old.note, new.note, _hidden(change, old, new) if rounding > FLOAT32 else "")
    return Captured(
        _in_gradients(change, trained, learning_rate, after),
        model,
        learning_rate,
        rounding,
        _statistics_moved(model, moved & old.found & new.found),
        {name: new.tensors[name] for name in old.found & new.found},
        tuple(filter(None, notes)),
    )


def captured_difference(
    victim: nn.Module,
    difference: str | Path,
    *,
    learning_rate: float,
    key: str | None = None,
    sign: int = 1,
) -> Captured:
    """Read a client's update from one file of differences: its weights after training minus those before.

    So are NVFlare's DIFF and the deltas of FedOpt (Reddi et al., arXiv 2003.00295, algorithm 1, line 9). The
    file is packed as for `captured_update`; buffers may be missing.

    Args:
        victim: the client's network with the weights that it started from. It stays as it is.
        difference: the file.
        learning_rate: of the client's SGD.
        key: the file's entry, or the beginning of its tensors' names.
        sign: -1 where the file holds before - after; so gradients are given, with a learning rate of 1.

    Raises:
        InputError: as `captured_update`, or `sign` is neither 1 nor -1.
        WeightsError: as `captured_update`, or the file holds weights.
        GradientError: as `captured_update`.

    Examples:
        >>> victim = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32)
        >>> difference = {name: torch.full_like(p, 0.01) for name, p in victim.named_parameters()}
        >>> torch.save(difference, "difference.pt")
        >>> captured = ggl.captured_difference(victim, "difference.pt", learning_rate=0.1)
        >>> round(float(captured.gradients[next(iter(captured.gradients))].mean()), 4)
        -0.1
    """
    _check_rate(learning_rate)
    if sign not in (1, -1):
        raise InputError(f"expected a sign of 1, after - before, or -1, before - after; found {sign}")
    model = copy.deepcopy(victim)
    read = read_weights(difference, model, key, whole=False)
    trained = _trained(model)
    moved = {name for name in read.found if bool(read.tensors[name].any())}
    _check_frozen(model, moved, difference)
    check_is_difference(difference, model, read.tensors, list(trained))
    change = {name: -sign * read.tensors[name].double() for name in trained}
    if not any(d.any() for d in change.values()):
        raise GradientError(
            f"{difference}: expected the weights after local training minus those before, found zeros: "
            "there is nothing to match; save it after the client's steps"
        )
    return Captured(
        _in_gradients(change, trained, learning_rate, difference),
        model,
        learning_rate,
        FLOAT32,
        _statistics_moved(model, moved),
        {name: model.state_dict()[name] + sign * read.tensors[name] for name in read.found},
        (read.note,) if read.note else (),
    )


def _check_rate(learning_rate: float) -> None:
    if not 0 < learning_rate < math.inf:
        raise InputError(f"expected a learning rate that is finite and above 0, found {learning_rate:g}")


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _check_frozen(model: nn.Module, moved: set[str], file: str | Path) -> None:
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and name in moved:
            raise WeightsError(
                f"{file}: {name!r}: expected no change, as the victim does not train it, found one; "
                "set requires_grad as the client has it"
            )


def _in_gradients(
    change: Mapping[str, Tensor], trained: Mapping[str, Tensor], learning_rate: float, file: str | Path
) -> Gradients:
    """Return before - after in units of gradients, in the parameters' types."""
    gradients = {name: (change[name] / learning_rate).to(p).contiguous() for name, p in trained.items()}
    for name, g in gradients.items():
        if not g.isfinite().all():
            raise GradientError(
                f"{file}: {name!r}: expected a finite update, found the difference divided by the learning "
                f"rate {learning_rate:g} too large; give the rate that the client used"
            )
    return gradients


def _hidden(change: Mapping[str, Tensor], *files: FileWeights) -> str:
    """Return in a line how much of a change of weights may be rounding to 16 bits.

    A value's rounding error is taken as uniform within half a spacing of its type: variance spacing² / 12.
    """
    variance = 0.0
    for name in change:
        for tensor in (file.tensors[name] for file in files):
            eps = torch.finfo(tensor.dtype).eps
            if eps > FLOAT32:
                spacing = eps * torch.exp2(torch.frexp(tensor.double()).exponent - 1.0) * (tensor != 0)
                variance += float(spacing.square().sum()) / 12
    norm = math.sqrt(sum(float(d.square().sum()) for d in change.values()))
    lost = math.sqrt(variance)
    return f"rounding to 16 bits changes the weights by a norm of about {lost:.2g}, the update by {norm:.2g}"


def _statistics_moved(model: nn.Module, moved: set[str]) -> bool | None:
    prefixes = [
        f"{name}." if name else ""
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None
    ]
    names = {prefix + part for prefix in prefixes for part in ("running_mean", "running_var")}
    return bool(names & moved) if names else None
