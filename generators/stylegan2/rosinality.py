"""Checkpoints of rosinality/stylegan2-pytorch, renamed to the official tensors.

Facts of that format (its code is MIT; none of it is here), and what each means here:

- Weights of convolutions are (1, out, in, k, k) and act by 1 / sqrt(in · k²), before the norm's ε is
  added; official ones act as they are. The factor is multiplied in, so that ε weighs the same. That of
  the image's part is an official one too.
- Up-convolutions are transposed convolutions of the weight as it is stored, then the FIR filter padded
  by 1 px, both as in the official file; its filter carries the gain of 4, ours does not.
- Linear layers store weights and biases over the learning-rate multiplier, as official ones do;
  modulation biases start at 1 in both.
- `noises.noise_i` are the constant pictures; old checkpoints have none, and their authors drew new noise
  for every image: here such a file is decoded without noise.
- `latent_avg`, beside the networks, is the mean style; training checkpoints have none.
- All files have the skip architecture, three image channels and no classes; no limit on magnitudes.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ggl.base.errors import WeightsError
from ggl.base.weights import load_state
from ggl.generators.formats import format_of
from ggl.generators.stylegan2.tensors import dense, named, take

__all__ = ["read_rosinality", "to_official"]

CONDITIONAL = "give the class-conditional generator in NVIDIA's own .pkl, which holds the embedding too"


def read_rosinality(path: str | Path) -> dict[str, Tensor]:
    """Return the averaged generator of a checkpoint, under official names.

    Raises:
        WeightsError: the file is missing, damaged, holds code, or is no such checkpoint.
    """
    path = Path(path)
    state = load_state(path)
    inner = state.get("g_ema", state) if isinstance(state, dict) else state
    if not isinstance(inner, dict) or "input.input" not in inner:
        known = format_of(map(str, inner)) if isinstance(inner, dict) else None
        found = known or "none; use a checkpoint of rosinality/stylegan2-pytorch"
        raise WeightsError(f"{path}: expected a generator 'g_ema' with a tensor 'input.input', found {found}")
    with named(path):
        tensors = to_official(inner)
        average = state.get("latent_avg") if isinstance(state, dict) else None
        if average is not None:
            tensors["mapping.w_avg"] = dense("latent_avg", average).reshape(-1)
    return tensors


def to_official(state: Mapping[str, object]) -> dict[str, Tensor]:
    """Return a generator's state dict under official names and in official shapes.

    Raises:
        WeightsError: a tensor is missing or has another shape.
    """
    tensors = {"synthesis.b4.const": take(state, "input.input", (1, None, None, None))[0]}
    depth = 1
    while f"style.{depth}.weight" in state:
        old, new = f"style.{depth}", f"mapping.fc{depth - 1}"
        tensors[f"{new}.weight"] = take(state, f"{old}.weight", (None, None))
        tensors[f"{new}.bias"] = take(state, f"{old}.bias", (None,))
        depth += 1
    _check_classless(state, tensors)
    tensors |= _convolution(state, "conv1", "synthesis.b4.conv1", 0) | _to_rgb(state, "to_rgb1", 4)
    i, size = 0, 8
    while f"to_rgbs.{i}.conv.weight" in state:
        block = f"synthesis.b{size}"
        tensors |= _convolution(state, f"convs.{2 * i}", f"{block}.conv0", 2 * i + 1)
        tensors |= _convolution(state, f"convs.{2 * i + 1}", f"{block}.conv1", 2 * i + 2)
        tensors |= _to_rgb(state, f"to_rgbs.{i}", size)
        if f"to_rgbs.{i}.upsample.kernel" in state:
            kernel = take(state, f"to_rgbs.{i}.upsample.kernel", (None, None))
            tensors[f"{block}.resample_filter"] = kernel / 4
        i, size = i + 1, 2 * size
    return tensors


def _check_classless(state: Mapping[str, object], tensors: Mapping[str, Tensor]) -> None:
    """Refuse what was converted from a class-conditional generator: this format has no place for labels.

    Raises:
        WeightsError: a tensor is of labels, or the first layer reads more than a latent, whose size is the
            style's.
    """
    labels = [name for name in map(str, state) if re.search("embed|label|class", name)]
    first = tensors.get("mapping.fc0.weight")
    if labels:
        raise WeightsError(f"expected a generator without classes, found {labels[0]!r}; {CONDITIONAL}")
    if first is not None and first.shape[0] != first.shape[1]:
        raise WeightsError(
            f"expected 'style.1.weight' with as many inputs as outputs, found {tuple(first.shape)}: the "
            f"latent and the embedding of a class; {CONDITIONAL}"
        )


def _convolution(state: Mapping[str, object], old: str, new: str, noise: int) -> dict[str, Tensor]:
    weight = take(state, f"{old}.conv.weight", (1, None, None, None, None))[0]
    tensors = {
        f"{new}.weight": weight / math.sqrt(weight[0].numel()),
        f"{new}.bias": take(state, f"{old}.activate.bias", (None,)),
        **_affine(state, old, new),
    }
    if f"noises.noise_{noise}" in state:
        tensors[f"{new}.noise_const"] = take(state, f"noises.noise_{noise}", (1, 1, None, None))[0, 0]
        tensors[f"{new}.noise_strength"] = take(state, f"{old}.noise.weight", (1,))[0]
    return tensors


def _to_rgb(state: Mapping[str, object], old: str, size: int) -> dict[str, Tensor]:
    new = f"synthesis.b{size}.torgb"
    return {
        f"{new}.weight": take(state, f"{old}.conv.weight", (1, None, None, None, None))[0],
        f"{new}.bias": take(state, f"{old}.bias", (1, None, 1, 1)).flatten(),
        **_affine(state, old, new),
    }


def _affine(state: Mapping[str, object], old: str, new: str) -> dict[str, Tensor]:
    return {
        f"{new}.affine.weight": take(state, f"{old}.conv.modulation.weight", (None, None)),
        f"{new}.affine.bias": take(state, f"{old}.conv.modulation.bias", (None,)),
    }
