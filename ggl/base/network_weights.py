"""A network's tensors out of a file, however the file packs them; what was found is said in a line."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ggl.base.errors import WeightsError
from ggl.base.name_matching import COUNTER, Match, match_file

__all__ = ["FileWeights", "file_shapes", "read_weights"]

SHOWN = 3
"""Tensors that a refusal names beside the first, or a line of what was found."""


@dataclass(frozen=True)
class FileWeights:
    """What a file holds for a network.

    Attributes:
        tensors: for every name of the network's state dict, in the file's own float types; what the file may
            lack is the network's own.
        found: the names that the file has.
        note: which entry it is, what was taken off the names, what was missing or left aside; empty for a
            plain state dict.
    """

    tensors: dict[str, Tensor]
    found: frozenset[str]
    note: str


def read_weights(
    path: str | Path, network: nn.Module, key: str | None = None, *, whole: bool = True
) -> FileWeights:
    """Read a network's weights from a file of tensors; no code in it is run.

    The file is `.safetensors`, `.npz` or torch's; in it a state dict, whole or as an entry of a checkpoint,
    with or without what data-parallel wrappers, Opacus, `torch.compile` or a trainer's module put before the
    names, or a list of arrays in the order of the network's state dict or of its parameters, as Flower's
    clients send. Counts of batches may be missing; so may running statistics of batch normalization that is
    in train mode, and every buffer that the network makes itself where the file has parameters alone.

    Args:
        path: the file.
        network: whose names, shapes and modes are expected; it stays as it is.
        key: an entry of the file, or the beginning of the tensors' names; None finds the one that fits.
        whole: whether the file must hold what training may leave as it is: running statistics that eval mode
            uses, and frozen parameters.

    Raises:
        InputError: the file is of another kind.
        WeightsError: it cannot be read, or its names, shapes, types or values are not the network's.
    """
    match = match_file(path, network, key)
    expected = dict(network.state_dict())
    tensors = {name: _of_kind(tensor.detach(), expected[name]) for name, tensor in match.tensors.items()}
    missing = _may_be_missing(network, tensors)
    if not whole:
        frozen = [name for name, p in network.named_parameters() if not p.requires_grad]
        missing |= {name: False for name in frozen if name not in tensors}
    _check(path, match, tensors, {n: t for n, t in expected.items() if n not in missing})
    statistics = [name for name, needed in missing.items() if needed]
    if whole and statistics:
        raise WeightsError(
            f"{path}: expected running statistics of batch normalization, which eval mode uses, such as "
            f"{statistics[0]!r}, found none; give the whole model.state_dict(), or take train mode if the "
            "client trained in it (--victim-mode train)"
        )
    said = "; ".join(filter(None, _found(match, tensors, list(missing))))
    filled = {name: tensors.get(name, expected[name]) for name in expected}
    return FileWeights(filled, frozenset(tensors), f"{Path(path).name}: {said}" if said else "")


def file_shapes(path: str | Path, network: nn.Module, key: str | None = None) -> dict[str, torch.Size]:
    """Return the shapes that a file gives a network's tensors, whatever the network's own are."""
    return {name: tensor.shape for name, tensor in match_file(path, network, key).tensors.items()}


def _of_kind(tensor: Tensor, like: Tensor) -> Tensor:
    """Return a count as a count: a server that averages counts of batches makes floats of them."""
    is_count = not like.is_floating_point() and not like.is_complex()
    return tensor.to(like.dtype) if is_count else tensor


def _may_be_missing(network: nn.Module, found: Mapping[str, Tensor]) -> dict[str, bool]:
    """Return the buffers that a file lacks and may lack; whether eval mode needs one that it has not."""
    norms = [
        (f"{name}." if name else "", module)
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
    ]
    modes = {f"{prefix}{part}": m.training for prefix, m in norms for part in ("running_mean", "running_var")}
    parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    buffers = [name for name in network.state_dict() if name not in parameters and name not in found]
    alone = found.keys() <= parameters
    return {
        name: not modes.get(name, True)
        for name in buffers
        if name.endswith(COUNTER) or name in modes or alone
    }


def _check(
    path: str | Path, match: Match, given: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> None:
    """Refuse other names, shapes, kinds, and values that are not finite."""
    pairs = [(name, tensor, given.get(name)) for name, tensor in expected.items()]
    extra = [(name, None, match.part.tensors[name]) for name in match.left]
    wrong = [
        f"{name!r}: expected {_describe(wanted)}, found {_describe(came)}"
        for name, wanted, came in [*pairs, *extra]
        if _describe(wanted) != _describe(came)
    ]
    if wrong:
        raise WeightsError(f"{path}: {_place(match)}{wrong[0]}{_further(wrong)}; {_advice(match, given)}")
    for name, tensor in given.items():
        if not tensor.isfinite().all():
            raise WeightsError(
                f"{path}: {_place(match)}{name!r}: expected finite values, found NaN or infinity; "
                "capture another round, or an earlier checkpoint"
            )


def _place(match: Match) -> str:
    taken = f"{' and '.join(map(repr, match.taken_off))} taken off" if match.taken_off else ""
    place = ", ".join(filter(None, (match.part.place, taken)))
    return f"{place}: " if place else ""


def _further(wrong: Sequence[str]) -> str:
    if len(wrong) == 1:
        return ""
    more = f", and {len(wrong) - 1 - SHOWN} more" if len(wrong) > 1 + SHOWN else ""
    return f" (also {', '.join(wrong[1 : 1 + SHOWN])}{more})"


def _advice(match: Match, given: Mapping[str, Tensor]) -> str:
    advice = "use the architecture and sizes that the file was made with"
    if match.others and len(given) < len(match.part.tensors):
        advice += f", or name another entry with key=: {', '.join(match.others[:SHOWN])}"
    return advice


def _describe(tensor: Tensor | None) -> str:
    if tensor is None:
        return "no such tensor"
    kind = "float" if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")
    return f"{kind} {list(tensor.shape)}"


def _found(match: Match, given: Mapping[str, Tensor], missing: Sequence[str]) -> Iterator[str]:
    """Yield what was found beside a plain state dict, and empty texts."""
    yield match.part.place
    yield f"{' and '.join(map(repr, match.taken_off))} taken off the names" if match.taken_off else ""
    yield f"{len(given)} arrays without names, in the order {match.order}" if match.order else ""
    counters = [name for name in missing if name.endswith(COUNTER)]
    statistics = [name for name in missing if name.endswith(("running_mean", "running_var"))]
    yield f"without {COUNTER}, which no gradient depends on" if counters else ""
    yield "without running statistics, which train mode does not use" if statistics else ""
    own = [name for name in missing if name not in counters and name not in statistics]
    yield f"without {_shown(own)}, as the network makes it" if own else ""
    aside = [*match.aside, *(match.part.others or ())]
    yield f"left aside: {_shown(sorted({name.partition('.')[0] for name in aside}))}" if aside else ""
    coarse = {t.dtype for t in given.values() if t.is_floating_point() and t.itemsize < 4}
    for kind in sorted(coarse, key=str):
        rounding = torch.finfo(kind).eps / 2
        yield f"{str(kind).removeprefix('torch.')}, each weight rounded by up to {rounding:.1g} of itself"


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more
