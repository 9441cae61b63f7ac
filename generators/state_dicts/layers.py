"""The layers of a state dict, told apart by names and shapes, in their order."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from ggl.base.errors import InputError, WeightsError
from ggl.generators.formats import OWN_PRIOR, format_of

__all__ = ["Kind", "Layer", "Layers", "question", "read_layers", "refusal", "shape_text"]

Kind: TypeAlias = Literal["linear", "kernel", "norm", "embedding"]
"""A "kernel" is a convolution or a transposed one; which, the channels around it say."""

NORM_TENSORS = ("running_mean", "running_var", "weight", "bias")
"""Of a batch normalization; one that is not affine lacks the last two."""

MOST_LAYERS = 64

COUNTER = "num_batches_tracked"
"""Of a batch normalization; it plays no part in eval mode, and older files lack it."""

EMBEDDING = re.compile(r"emb|label|class", re.IGNORECASE)
"""In the name of a table of labels, which else looks like a linear layer without bias."""

RESIDUAL = re.compile(r"(^|[._])(res(net|idual)?_?(block)?s?\d*|shortcut|skip|downsample)[._]", re.IGNORECASE)
PAIR = re.compile(r"(?<=\.)conv_?1\."), re.compile(r"(?<=\.)conv_?2\.")

STRANGE = {
    "weight_orig": "spectral or weight normalization",
    "weight_v": "weight normalization",
    "weight_bar": "spectral normalization",
    "gamma": "a layer with a factor gamma, as attention has",
    "in_proj_weight": "attention",
}
"""Tensors that give away layers which no plain generator has."""


@dataclass(frozen=True)
class Layer:
    """A module of the file: its name there, what it is, and its tensors by leaf name."""

    name: str
    kind: Kind
    tensors: Mapping[str, Tensor]

    @property
    def weight(self) -> Tensor:
        """Its weight, as the file has it."""
        return self.tensors["weight"]

    @property
    def features(self) -> int:
        """How many features a normalization takes."""
        return len(self.tensors["running_mean"])

    def fill(self, module: nn.Module) -> nn.Module:
        """Return `module`, made on the meta device, with these tensors in float64, in eval mode."""
        state = {leaf: tensor.double() for leaf, tensor in self.tensors.items() if leaf != COUNTER}
        counter = {COUNTER: torch.tensor(0)} if self.kind == "norm" else {}
        module.load_state_dict(state | counter, assign=True)
        return module.eval()


@dataclass(frozen=True)
class Layers:
    """What a file holds: the layers with weights and the normalizations, and the table of labels, if any.

    Attributes:
        path: the file, for messages.
        ordered: weights and normalizations, each normalization after the layer whose values it takes.
        embedding: of labels.
    """

    path: Path
    ordered: Sequence[Layer]
    embedding: Layer | None

    @property
    def weights(self) -> list[Layer]:
        """The layers with weights, in order."""
        return [layer for layer in self.ordered if layer.kind != "norm"]


def refusal(path: str | Path, found: str) -> WeightsError:
    """Return the error for what is not understood, with the way on."""
    return WeightsError(f"{path}: expected the tensors of a plain generator, found {found}; {OWN_PRIOR}")


def question(path: str | Path, text: str) -> InputError:
    """Return the error for what the tensors leave open, with what to say and the way on."""
    return InputError(f"{path}: {text}; or {OWN_PRIOR}")


def shape_text(tensor: Tensor) -> str:
    """Return a shape as "16x8x4x4"."""
    return "x".join(map(str, tensor.shape)) or "()"


def read_layers(path: str | Path, state: Mapping[str, Tensor], *, in_order: bool) -> Layers:
    """Return a generator's layers.

    Args:
        path: the file's name, for messages.
        state: its tensors by name.
        in_order: whether `state` is in the order of definition, which safetensors loses; else names
            are sorted, numbers as numbers, linear layers' containers first.

    Raises:
        WeightsError: a layer is none that a plain generator has; the message names it, or the format.
    """
    known = format_of(state)
    if known is not None:
        raise WeightsError(f"{path}: expected the tensors of a plain generator, found {known}")
    wrapped = next((name for name in state if "parametrizations." in name), None)
    if wrapped is not None:
        raise refusal(path, f"{wrapped} (a parametrization, such as spectral normalization)")
    _check_no_sums(path, state)
    modules: dict[str, dict[str, Tensor]] = {}
    for name in state if in_order else _sorted(state):
        module, _, leaf = name.rpartition(".")
        modules.setdefault(module, {})[leaf] = state[name]
    layers = [Layer(name, _kind(path, name, tensors), tensors) for name, tensors in modules.items()]
    embeddings = [layer for layer in layers if layer.kind == "embedding"]
    if len(embeddings) > 1:
        raise refusal(path, f"{len(embeddings)} tables of labels ({embeddings[1].name} is the second)")
    weights = [layer for layer in layers if layer.kind in ("linear", "kernel")]
    norms = [layer for layer in layers if layer.kind == "norm"]
    if not 2 <= len(weights) <= MOST_LAYERS:
        raise refusal(path, f"{len(weights)} layers with weights")
    own = [layer for layer in layers if layer.kind != "embedding"]
    ordered = own if _interleaved(own) else _paired(path, weights, norms)
    return Layers(Path(path), ordered, embeddings[0] if embeddings else None)


def _check_no_sums(path: str | Path, state: Mapping[str, Tensor]) -> None:
    """Refuse residual blocks, told by names alone: what is added to what has no tensor, and the rest fits.

    Raises:
        WeightsError: a name says so, or two containers and more hold a "conv1" and a "conv2" each.
    """
    named = [name for name in state if RESIDUAL.search(name)]
    firsts = {name[: match.start()] for name in state if (match := PAIR[0].search(name))}
    seconds = {name[: match.start()] for name in state if (match := PAIR[1].search(name))}
    pairs = sorted(firsts & seconds)
    if named or len(pairs) > 1:
        where = named[0] if named else pairs[0].rstrip(".")
        raise refusal(path, f"{where}, which may be of a residual block: its sum has no tensor")


def _kind(path: str | Path, name: str, tensors: Mapping[str, Tensor]) -> Kind:
    """Return what a module is.

    Raises:
        WeightsError: it is none that a plain generator has, or holds no finite numbers.
    """
    for leaf, tensor in tensors.items():
        if leaf != COUNTER and not (tensor.is_floating_point() and tensor.isfinite().all()):
            raise refusal(path, f"{name}.{leaf} with values that are not finite numbers")
    kind = _recognized(name, tensors)
    if kind is None:
        shapes = ", ".join(f"{leaf} of shape {shape_text(tensor)}" for leaf, tensor in tensors.items())
        hints = [hint for leaf, hint in STRANGE.items() if leaf in tensors]
        if tensors.keys() == {"weight", "bias"} and tensors["weight"].ndim == 1:
            hints = ["a normalization without running statistics"]
        what = f" ({hints[0]})" if hints else ""
        raise refusal(path, f"{name or 'no module'} with {shapes}{what}")
    if kind == "kernel" and tensors["weight"].shape[2] != tensors["weight"].shape[3]:
        height, width = tensors["weight"].shape[2:]
        raise refusal(path, f"{name}.weight with a kernel of {height}x{width}")
    return kind


def _recognized(name: str, tensors: Mapping[str, Tensor]) -> Kind | None:
    names = tensors.keys() - {COUNTER}
    if names in (set(NORM_TENSORS), set(NORM_TENSORS[:2])):
        alike = len({tuple(tensors[leaf].shape) for leaf in names}) == 1
        return "norm" if alike and tensors["running_mean"].ndim == 1 else None
    if names not in ({"weight"}, {"weight", "bias"}):
        return None
    dimensions = tensors["weight"].ndim
    if dimensions == 2 and "bias" not in names and EMBEDDING.search(name):
        return "embedding"
    if dimensions == 2:
        return "linear" if _bias_fits(tensors, 0) else None
    return "kernel" if dimensions == 4 and (_bias_fits(tensors, 0) or _bias_fits(tensors, 1)) else None


def _bias_fits(tensors: Mapping[str, Tensor], axis: int) -> bool:
    return "bias" not in tensors or tensors["bias"].shape == tensors["weight"].shape[axis : axis + 1]


def _sorted(state: Mapping[str, Tensor]) -> list[str]:
    """Return the names with those of containers that hold linear layers first, numbers in them as numbers."""
    linear = {name.partition(".")[0] for name, tensor in state.items() if tensor.ndim == 2}
    return sorted(state, key=lambda name: (name.partition(".")[0] not in linear, _natural(name)))


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a sorting key by which main.3 stands before main.12."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _takes(norm: Layer, weights: Layer) -> bool:
    """Say whether a normalization may follow a layer: of its outputs, or of the maps they are shaped to."""
    shape = weights.weight.shape
    if weights.kind == "kernel":
        return norm.features in shape[:2]
    return shape[0] % norm.features == 0


def _interleaved(layers: Sequence[Layer]) -> bool:
    """Say whether every normalization stands behind a layer that it fits, and no two behind one."""
    return all(
        i > 0 and layers[i - 1].kind != "norm" and _takes(layer, layers[i - 1])
        for i, layer in enumerate(layers)
        if layer.kind == "norm"
    )


def _paired(path: str | Path, weights: Sequence[Layer], norms: Sequence[Layer]) -> list[Layer]:
    """Return each layer but the last with its normalization, where a file has all of one kind first.

    Raises:
        WeightsError: there is not one normalization for each, or one does not fit.
    """
    if len(norms) != len(weights) - 1:
        raise refusal(path, f"{len(norms)} batch normalizations for {len(weights)} layers with weights")
    ordered = []
    for layer, norm in zip(weights, norms, strict=False):
        if not _takes(norm, layer):
            outputs = shape_text(layer.weight)
            raise refusal(path, f"{norm.name} of {norm.features} features after {layer.name} of {outputs}")
        ordered += [layer, norm]
    return [*ordered, weights[-1]]
