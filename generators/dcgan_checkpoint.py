"""Priors from DCGAN generators that others trained, recognized by the shapes of their tensors."""

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ggl.base.errors import InputError, WeightsError
from ggl.base.options import specification
from ggl.base.weight_files import locate
from ggl.base.weights import load_state, tensors_of
from ggl.generators.base import Prior

__all__ = ["DCGAN", "DigiFace", "read_state"]

GENERATOR_KEYS = (
    "netG_state_dict",
    "generator_state_dict",
    "G_state_dict",
    "netG",
    "generator",
    "G",
    "state_dict",
)
"""Where checkpoints that hold more than a generator keep it, by how surely the name means one."""

NORM_EPSILON = 1e-5
"""Of `nn.BatchNorm2d` by default; a state dict does not hold it."""

NORM_TENSORS = ("running_mean", "running_var", "weight", "bias")
"""Of a batch normalization; one that is not affine lacks the last two."""

DOUBLING_KERNELS = (2, 4)
"""Kernels k that double an image with stride 2 and padding (k - 2) / 2; odd ones are ambiguous."""

Layer = tuple[str, dict[str, Tensor]]
"""A module's name in the file and its tensors."""


class DCGAN(Prior):
    """A DCGAN generator (arXiv 1511.06434) from a state dict, as the PyTorch example lays it out.

    Transposed convolutions from a 1 px latent to the image, batch normalization (evaluated by its
    running statistics) and ReLU after each but the last, tanh after that. The first makes a map
    as large as its kernel; each later one doubles it.

    Args:
        path: the file: torch (read as tensors only) or `.safetensors`.
        key: the entry of the file, or the prefix of its tensors' names, that is the generator;
            None tries the usual ones, then the file as a whole.
        size: height and width in pixels that images are reduced to by the mean over areas; None
            keeps the network's own.

    Raises:
        WeightsError: the file cannot be read, or what it holds is no such generator.
        InputError: `size` is not between 1 and the network's own.
    """

    def __init__(self, path: str, *, key: str | None = None, size: int | None = None) -> None:
        super().__init__()
        self.name = specification(f"dcgan:{path}", {"key": key, "size": size})
        self.licence = "that of the weights file"
        layers = build_layers(path, read_state(path, key), in_order=Path(path).suffix != ".safetensors")
        native = layers[0].kernel_size[0] * 2 ** (len(layers) - 1)
        if size is not None and not 1 <= size <= native:
            raise InputError(f"prior {self.name}: expected a size of 1 to {native} pixels, found {size}")
        self.resized = size is not None and size != native
        self.latent_dim = layers[0].in_channels
        self.image_shape = (layers[-1].out_channels, size or native, size or native)
        modules = [module for layer in layers for module in (layer, nn.ReLU(inplace=True))]
        self.generator = nn.Sequential(*modules[:-1], nn.Tanh()).requires_grad_(False)
        self.generator.to(memory_format=torch.channels_last)

    def decode(
        self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n channels height width"]:
        """Return the images of latents `z`, in [0, 1]; `labels` are ignored."""
        self.check_labels(labels)
        images: Tensor = (self.generator(z[:, :, None, None]) + 1) / 2
        return F.interpolate(images, self.image_shape[1:], mode="area") if self.resized else images


class DigiFace(DCGAN):
    """Rendered faces, 64 px RGB, 100 latent dimensions: a DCGAN that Chien Liu trained on DigiFace-1M.

    The weights come with the package gan_face_generate, under the MIT licence; DigiFace-1M itself
    (Microsoft, arXiv 2210.02579), whose faces are rendered and not photographed, is for
    non-commercial research.

    Args:
        size: height and width in pixels that images are reduced to; None keeps 64.

    Raises:
        WeightsError: the weights are not at hand, or were altered.
        InputError: `size` is not between 1 and 64.
    """

    def __init__(self, *, size: int | None = None) -> None:
        super().__init__(str(locate("digiface-dcgan64") / "weights.tar"), key="netG_state_dict", size=size)
        self.name = specification("digiface-dcgan64", {"size": size})
        self.licence = "MIT; trained on DigiFace-1M, which is for non-commercial research"


def read_state(path: str | Path, key: str | None = None) -> dict[str, Tensor]:
    """Read the state dict that is a file's entry `key`, or the tensors named `key.`…, or a usual entry.

    Raises:
        WeightsError: as `ggl.base.weights.load_tensors`, or there is nothing under `key`.
    """
    path = Path(path)
    state = load_state(path)
    if not isinstance(state, dict):
        return tensors_of(path, state)
    if key is None:
        usual = (state[name] for name in GENERATOR_KEYS if isinstance(state.get(name), dict))
        return tensors_of(path, next(usual, state))
    return tensors_of(path, _part(path, state, key))


def _part(path: Path, state: Mapping[object, object], key: str) -> object:
    """Return a file's entry `key`, or what is named `key.`… in it or in its state dict."""
    if isinstance(state.get(key), dict):
        return state[key]
    inner = state.get("state_dict")
    named = {str(name): value for name, value in (inner if isinstance(inner, dict) else state).items()}
    prefix = f"{key}."
    part = {name.removeprefix(prefix): named[name] for name in named if name.startswith(prefix)}
    if not part:
        found = ", ".join(sorted({name.partition(".")[0] for name in named}))
        raise WeightsError(f"{path}: expected an entry {key!r}, found {found}; name one of those with key=")
    return part


def build_layers(
    path: str | Path, state: Mapping[str, Tensor], *, in_order: bool
) -> list[nn.ConvTranspose2d]:
    """Return the convolutions of a generator, float32, each with its normalization folded in.

    Args:
        path: the file's name, for messages.
        state: its tensors by name.
        in_order: whether `state` is in the order of definition, which safetensors loses; else names
            are sorted, numbers as numbers.

    Raises:
        WeightsError: these are not the tensors of a DCGAN generator.
    """
    convolutions, norms = _layers(path, state, in_order)
    _check_convolutions(path, convolutions)
    _check_norms(path, convolutions, norms)
    return [
        _convolution(tensors, norms[index][1] if index < len(norms) else None, first=index == 0)
        for index, (_, tensors) in enumerate(convolutions)
    ]


def _refusal(path: str | Path, found: str) -> WeightsError:
    return WeightsError(
        f"{path}: expected the tensors of a DCGAN generator, found {found}; "
        "if the file holds more than a generator, name its part with key="
    )


def _layers(path: str | Path, state: Mapping[str, Tensor], in_order: bool) -> tuple[list[Layer], list[Layer]]:
    """Return the transposed convolutions and the normalizations, each in order.

    The two are told apart so that files which define all of one kind first are read as well.
    """
    modules: dict[str, dict[str, Tensor]] = {}
    for name in state if in_order else sorted(state, key=_natural):
        module, _, leaf = name.rpartition(".")
        modules.setdefault(module, {})[leaf] = state[name]
    convolutions = [layer for layer in modules.items() if _is_convolution(layer[1])]
    norms = [layer for layer in modules.items() if _is_norm(layer[1])]
    for module, tensors in modules.items():
        if not (_is_convolution(tensors) or _is_norm(tensors)):
            shapes = ", ".join(f"{leaf} of shape {_shape(tensor)}" for leaf, tensor in tensors.items())
            raise _refusal(path, f"{module or 'no module'} with {shapes}")
        for leaf, tensor in tensors.items():
            if leaf != "num_batches_tracked" and not (tensor.is_floating_point() and tensor.isfinite().all()):
                raise _refusal(path, f"{module}.{leaf} with values that are not finite numbers")
    return convolutions, norms


def _is_convolution(tensors: Mapping[str, Tensor]) -> bool:
    return tensors.keys() <= {"weight", "bias"} and "weight" in tensors and tensors["weight"].ndim == 4


def _is_norm(tensors: Mapping[str, Tensor]) -> bool:
    """Say whether these are of a `BatchNorm2d`, affine or not."""
    names = tensors.keys() - {"num_batches_tracked"}
    if names not in (set(NORM_TENSORS), set(NORM_TENSORS[:2])):
        return False
    return len({tuple(tensors[name].shape) for name in names}) == 1 and tensors["running_mean"].ndim == 1


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a sorting key by which main.3 stands before main.12."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "()"


def _check_convolutions(path: str | Path, layers: list[Layer]) -> None:
    if len(layers) < 2:
        raise _refusal(path, f"{len(layers)} convolutions")
    for index, (name, tensors) in enumerate(layers):
        weight = tensors["weight"]
        kernel = weight.shape[2]
        if kernel != weight.shape[3] or kernel < 2 or (index > 0 and kernel not in DOUBLING_KERNELS):
            raise _refusal(path, f"{name}.weight with a kernel of {kernel}x{weight.shape[3]}")
        if "bias" in tensors and tensors["bias"].shape != weight.shape[1:2]:
            raise _refusal(path, f"{name}.bias of shape {_shape(tensors['bias'])}")
    for (below, _), (above, _), (a, b) in zip(
        layers[:-1], layers[1:], pairwise(tensors["weight"] for _, tensors in layers), strict=True
    ):
        if a.shape[1] != b.shape[0]:
            raise _refusal(path, f"{above}.weight of shape {_shape(b)} after {below}.weight of {_shape(a)}")
    channels = layers[-1][1]["weight"].shape[1]
    if channels not in (1, 3):
        raise _refusal(path, f"images of {channels} channels, not 1 or 3")


def _check_norms(path: str | Path, convolutions: list[Layer], norms: list[Layer]) -> None:
    if len(norms) not in (0, len(convolutions) - 1):
        raise _refusal(path, f"{len(norms)} batch normalizations for {len(convolutions)} convolutions")
    for (below, convolution), (above, norm) in zip(convolutions, norms, strict=False):
        channels = convolution["weight"].shape[1]
        if len(norm["running_mean"]) != channels:
            raise _refusal(
                path, f"{above} of {len(norm['running_mean'])} features after {below} of {channels} channels"
            )


def _convolution(
    tensors: Mapping[str, Tensor], norm: Mapping[str, Tensor] | None, *, first: bool
) -> nn.ConvTranspose2d:
    """Return a convolution that its normalization is folded into, in float64 until it is done."""
    wide = {name: tensor.double() for name, tensor in tensors.items()}
    weight, bias = wide["weight"], wide.get("bias")
    if norm is not None:
        wide = {name: tensor.double() for name, tensor in norm.items()}
        mean, variance = wide["running_mean"], wide["running_var"]
        scale, shift = wide.get("weight"), wide.get("bias")
        weight, bias = fuse_conv_bn_weights(
            weight, bias, mean, variance, NORM_EPSILON, scale, shift, transpose=True
        )
    inputs, outputs, kernel, _ = weight.shape
    stride, padding = (1, 0) if first else (2, (kernel - 2) // 2)
    folded = nn.ConvTranspose2d(
        inputs, outputs, kernel, stride, padding, bias=bias is not None, device="meta"
    )
    state = {"weight": weight.float()} | ({} if bias is None else {"bias": bias.float()})
    folded.load_state_dict(state, assign=True)
    return folded
