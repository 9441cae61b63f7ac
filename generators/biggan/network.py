"""BigGAN-deep's generator: the library's network with everything constant folded into its weights.

The network is that of `pytorch_pretrained_biggan` (MIT, the extra `biggan`), imported when one is built.
Nothing here downloads.
"""

import importlib
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ggl.base.distribution import install_command
from ggl.base.errors import InputError, WeightsError
from ggl.generators.biggan.configuration import Configuration
from ggl.generators.biggan.spectral import fold_spectral_norm
from ggl.generators.formats import format_of

__all__ = ["begin", "build_generator", "finish", "shapes_of"]

RGB = 3


def build_generator(
    configuration: Configuration, tensors: Mapping[str, Tensor], truncation: float, path: Path
) -> tuple[nn.Module, Tensor]:
    """Return the generator at one truncation, and the class embeddings (num_classes, z_dim), float32.

    The generator is the library's `Generator` in eval mode, called with (condition (n, 2 z_dim),
    truncation, which is ignored) for images (n, 3, side, side) in [-1, 1]. Folded: spectral norms, the
    batch statistics of this truncation, and the last convolution's outputs beyond red, green and blue,
    which the library computes and drops.

    Args:
        configuration: as published, or as `read_configuration` found it.
        tensors: the state dict of the library's `BigGAN`.
        truncation: in (0, 1].
        path: where the tensors were read, for messages.

    Raises:
        WeightsError: a tensor is missing, unknown, of another shape or not finite.
        InputError: the library is not installed.
    """
    library = _library()
    with torch.device("meta"):
        model = library.BigGAN(library.BigGANConfig(**asdict(configuration)))
    _check_tensors(model.state_dict(), tensors, path)
    plain = fold_spectral_norm({name: tensor.float() for name, tensor in tensors.items()}, path)
    embeddings = plain.pop("embeddings.weight").T.contiguous()
    plain = {name.removeprefix("generator."): tensor for name, tensor in plain.items()}
    plain = _fold_statistics(plain, configuration, truncation)
    for name in ("conv_to_rgb.weight", "conv_to_rgb.bias"):
        plain[name] = plain[name][:RGB].clone()
    generator = _without_constants(model.generator, configuration)
    generator.load_state_dict(plain, assign=True)
    return generator.eval().requires_grad_(False).to(memory_format=torch.channels_last), embeddings


def shapes_of(configuration: Configuration) -> list[tuple[int, int, int]]:
    """Return the shape (c, h, w) of every stage's maps: those of 4 px, then what each layer makes."""
    channels, side = 16 * configuration.channel_width, 4
    shapes = [(channels, side, side)]
    for i, (doubles, _, width) in enumerate(configuration.layers):
        if i == configuration.attention_layer_position:
            shapes.append(shapes[-1])
        channels, side = width * configuration.channel_width, side * (2 if doubles else 1)
        shapes.append((channels, side, side))
    return shapes


def begin(generator: Any, condition: Tensor, stage: int) -> Tensor:
    """Return the maps after a stage of what `build_generator` returned, as its own `forward` makes them."""
    x = generator.gen_z(condition).unflatten(1, (4, 4, -1)).permute(0, 3, 1, 2).contiguous()
    return _through(generator.layers[: stage - 1], x, condition)


def finish(generator: Any, x: Tensor, condition: Tensor, stage: int) -> Tensor:
    """Return the images in [-1, 1] of a stage's maps."""
    x = _through(generator.layers[stage - 1 :], x, condition)
    return torch.tanh(generator.conv_to_rgb(torch.relu(generator.bn(x, 1.0))))


def _through(layers: Any, x: Tensor, condition: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x, condition, 1.0) if hasattr(layer, "bn_0") else layer(x)
    return x


def _library() -> Any:
    try:
        return importlib.import_module("pytorch_pretrained_biggan.model")
    except ImportError as error:
        raise InputError(
            f"biggan-deep needs a package: {install_command('pytorch-pretrained-biggan')} ({error})"
        ) from error


def _check_tensors(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path) -> None:
    known = format_of(tensors) or ""
    if "embeddings.weight" not in tensors and known:
        raise WeightsError(f"{path}: expected the tensors of BigGAN-deep, found {known}")
    for name in [*expected, *tensors]:
        if (name in expected) != (name in tensors):
            state = "missing" if name in expected else "unknown"
            raise WeightsError(f"{path}: expected the configuration's tensors, but {name!r} is {state}")
        wanted, found = expected[name].shape, tensors[name].shape
        if wanted != found:
            raise WeightsError(f"{path}: expected {name!r} of shape {tuple(wanted)}, found {tuple(found)}")
        if not (tensors[name].is_floating_point() and tensors[name].isfinite().all()):
            raise WeightsError(f"{path}: expected finite numbers in {name!r}, found others")


class _Normalization(nn.Module):
    """Batch normalization with given statistics, as one scale and shift that depend on the condition."""

    def __init__(self, channels: int, condition_dim: int) -> None:
        super().__init__()
        self.affine = nn.Linear(condition_dim, 2 * channels)

    def forward(self, x: Tensor, truncation: float, condition: Tensor) -> Tensor:  # noqa: ARG002
        scale, shift = self.affine(condition)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, x, scale)


class _PlainNormalization(nn.Module):
    """The last one, which does not see the condition."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.affine = nn.Parameter(torch.empty(2, channels))

    def forward(self, x: Tensor, truncation: float) -> Tensor:  # noqa: ARG002
        scale, shift = self.affine[:, :, None, None]
        return torch.addcmul(shift, x, scale)


def _without_constants(generator: nn.Module, configuration: Configuration) -> nn.Module:
    """Replace the parts that are folded, on the meta device: structure without values."""
    with torch.device("meta"):
        for name, module in list(generator.named_modules()):
            if hasattr(module, "running_means"):
                generator.set_submodule(name, _normalization(module, 2 * configuration.z_dim))
            elif hasattr(module, "weight_orig") and ".bn_" not in name:
                generator.set_submodule(name, _plain(module))
        generator.conv_to_rgb = nn.Conv2d(configuration.channel_width, RGB, 3, padding=1)
    return generator


def _normalization(module: Any, condition_dim: int) -> nn.Module:
    channels = module.running_means.shape[1]
    return _Normalization(channels, condition_dim) if module.conditional else _PlainNormalization(channels)


def _plain(module: Any) -> nn.Module:
    """Return the layer without the hooks of its spectral norm; `remove_spectral_norm` leaves some behind."""
    bias = module.bias is not None
    if isinstance(module, nn.Linear):
        return nn.Linear(module.in_features, module.out_features, bias)
    kernel, padding = module.kernel_size, module.padding
    return nn.Conv2d(module.in_channels, module.out_channels, kernel, padding=padding, bias=bias)


def _fold_statistics(
    tensors: Mapping[str, Tensor], configuration: Configuration, truncation: float
) -> dict[str, Tensor]:
    """Return the tensors with each normalization's scale and shift, statistics included, as `affine`.

    With mean m, variance v, r = 1/√(v + ε) and a condition c, (x - m) r (1 + Sc) + Oc is
    x (r + r S c) + (O - m r S) c - m r: both factors are affine in c.
    """
    folded = dict(tensors)
    for prefix in [name.removesuffix(".running_means") for name in tensors if name.endswith("running_means")]:
        mean = _at_truncation(folded.pop(f"{prefix}.running_means"), truncation)
        rate = (_at_truncation(folded.pop(f"{prefix}.running_vars"), truncation) + configuration.eps).rsqrt()
        if f"{prefix}.scale.weight" in folded:
            scale = rate[:, None] * folded.pop(f"{prefix}.scale.weight")
            shift = folded.pop(f"{prefix}.offset.weight") - mean[:, None] * scale
            folded[f"{prefix}.affine.weight"] = torch.cat((scale, shift))
            folded[f"{prefix}.affine.bias"] = torch.cat((rate, -mean * rate))
        else:
            scale = rate * folded.pop(f"{prefix}.weight")
            folded[f"{prefix}.affine"] = torch.stack((scale, folded.pop(f"{prefix}.bias") - mean * scale))
    return folded


def _at_truncation(statistics: Tensor, truncation: float) -> Tensor:
    """Return the row of `statistics` (n_stats, channels) at a truncation, or the library's mean of two rows.

    The library gives the row below the share that linear interpolation would give the row above. Two
    ports of DeepMind's graph agree on it, so it is kept: it is what the network is published with.
    """
    share, below = math.modf(truncation / (1 / (len(statistics) - 1)))
    row = int(below)
    if share == 0:
        return statistics[row]
    return statistics[row] * share + statistics[row + 1] * (1 - share)
