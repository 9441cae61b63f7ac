"""The user's own StyleGAN2 or StyleGAN2-ADA generator as a prior, searched in Z, W or W+."""

import math
from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ggl.base.errors import InputError
from ggl.base.options import specification
from ggl.generators.stages import Stage, StagedPrior, restored
from ggl.generators.stylegan2.files import find_file, read_generator
from ggl.generators.stylegan2.mapping import MappingNetwork
from ggl.generators.stylegan2.synthesis import START, SynthesisNetwork, resolution_of
from ggl.generators.stylegan2.tensors import named, take
from ggl.generators.stylegan2.whitening import Whitening

__all__ = ["StyleGAN2"]

Space: TypeAlias = Literal["z", "w", "w+"]

MOST_CLASSES = 100
"""Classes up to which W is searched: each has a covariance of its own to estimate and to hold."""


class StyleGAN2(StagedPrior):
    """A StyleGAN2 generator from a file (arXiv 1912.04958, 2006.06676).

    All spaces are searched in standard-normal coordinates. "z": the latents themselves. "w": style
    vectors, whitened by the mean and covariance of W, per class where there are classes (so that
    coordinates mean styles of the asked class; the label has no other effect there). "w+": K whitened
    style vectors, one after the other; the style inputs of the network are split into K contiguous
    groups from coarse to fine, whose sizes differ by one at most, the coarser the larger.

    Args:
        path: an official `.pkl`, a rosinality `.pt`, or a `.safetensors` with official names; or the short
            name of a published generator in the catalog of weights, "ffhq" of "stylegan2-ffhq".
        space: what is searched.
        layers: K, for space "w+" alone: 1 to 2 log2(size) - 2.
        truncation: ψ in (0, 1]: styles are drawn towards the mean style, w_avg + ψ (w - w_avg).
        size: height and width of the images; below the file's own, the sum of the skips up to there.
        half: whether blocks that were trained in float16 run so on CUDA, with its rounding.

    Raises:
        InputError: an option is out of range, or `layers` is without "w+".
        UnknownNameError: there is no such file, nor such a published generator.
        WeightsError: the file is missing, damaged or altered, or is no such generator.
    """

    licence = "that of the weights file (NVIDIA's own are for non-commercial use)"
    reads_latents = True
    average: Tensor
    group_of: Tensor

    def __init__(
        self,
        path: str,
        *,
        space: Space = "z",
        layers: int | None = None,
        truncation: float = 1.0,
        size: int | None = None,
        half: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < truncation <= 1:
            raise InputError(f"stylegan2: expected a truncation above 0, at most 1, found {truncation:g}")
        file = find_file(path)
        tensors, settings = read_generator(file)
        _check_size(size, resolution_of(tensors))
        with named(file):
            self.mapping = MappingNetwork(tensors, settings.lr_multiplier)
            self.synthesis = SynthesisNetwork(tensors, self.mapping.w_dim, settings, size, half)
        groups = _check_layers(space, layers, self.synthesis.num_ws)
        self.num_classes = self.mapping.num_classes
        _check_classes(space, self.num_classes)
        side = self.synthesis.sizes[-1]
        self.image_shape = (self.synthesis.channels, side, side)
        self.stages = tuple(_stage(maps, image) for maps, image in self.synthesis.shapes())
        self.latent_dim = self.mapping.z_dim if space == "z" else groups * self.mapping.w_dim
        self.name = specification(
            f"stylegan2:{path}",
            {
                "space": space if space != "z" else None,
                "layers": layers,
                "truncation": truncation if truncation != 1 else None,
                "size": size,
                "half": half or None,
            },
        )
        self.truncation, self.groups = truncation, groups
        self.register_buffer("group_of", _group_of(self.synthesis.num_ws, groups), persistent=False)
        self.whitening = None if space == "z" else Whitening(self.mapping)
        with named(file):
            self.register_buffer("average", self._average(tensors) if truncation < 1 else None)
        self.eval().requires_grad_(False)

    def decode(
        self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n channels size size"]:
        """Return the images of latents `z`, in [0, 1]; their gradient is zero where that range cuts."""
        self.check_labels(labels)
        labels = None if self.num_classes is None else labels
        images: Tensor = self.synthesis(self.styles(z, labels))
        return ((images + 1) / 2).clamp(0, 1)

    def features(
        self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None, stage: int
    ) -> Float[Tensor, "n size"]:
        """Return the feature maps after `stage` blocks, and behind them the images so far."""
        self.check_labels(labels)
        maps, images = self.synthesis.begin(self.styles(z, labels), stage)
        return torch.cat((maps.to(images).flatten(1), images.flatten(1)), dim=1)

    def finish(
        self,
        a: Float[Tensor, "n size"],
        z: Float[Tensor, "n d"],
        labels: Int[Tensor, " n"] | None,
        stage: int,
    ) -> Float[Tensor, "n channels side side"]:
        """Return the images of what a stage left, under the styles of latents and labels."""
        maps, image = self.synthesis.shapes()[stage - 1]
        x, so_far = a.split([math.prod(maps), math.prod(image)], dim=1)
        styles = self.styles(z, labels)
        images = self.synthesis.finish(restored(x, maps), restored(so_far, image), styles, stage)
        return ((images + 1) / 2).clamp(0, 1)

    def styles(
        self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n inputs w"]:
        """Return the truncated style vector of every style input of the synthesis network."""
        w: Tensor
        if self.whitening is None:
            w = self.mapping(z, labels)
        else:
            each = labels if labels is None else labels.repeat_interleave(self.groups)
            w = self.whitening(z.reshape(len(z) * self.groups, -1), each)
        if self.truncation < 1:
            w = self.average + self.truncation * (w - self.average)
        groups: Tensor = w.unflatten(0, (-1, self.groups))
        return groups[:, self.group_of]

    def _average(self, tensors: Mapping[str, Tensor]) -> Float[Tensor, " w"]:
        """Return the file's mean style, over all classes; where it has none, that of samples."""
        if "mapping.w_avg" in tensors:
            return take(tensors, "mapping.w_avg", (self.mapping.w_dim,))
        whitening = self.whitening or Whitening(self.mapping)
        return whitening.mean.mean(0)


def _stage(maps: tuple[int, int, int], image: tuple[int, int, int]) -> Stage:
    """Return the stage at which there are maps and an image so far."""
    return Stage(f"{maps[0]} maps of {maps[1]} px and the image so far", math.prod(maps) + math.prod(image))


def _group_of(num_ws: int, groups: int) -> Int[Tensor, " inputs"]:
    """Return the group of every style input."""
    parts = torch.arange(num_ws).tensor_split(groups)
    return torch.cat([torch.full_like(part, group) for group, part in enumerate(parts)])


def _check_size(size: int | None, full: int) -> None:
    sizes = [START * 2**i for i in range((full // START).bit_length())]
    if size is not None and size not in sizes:
        raise InputError(f"stylegan2: expected a size of {', '.join(map(str, sizes))}, found {size}")


def _check_layers(space: Space, layers: int | None, num_ws: int) -> int:
    """Return how many style vectors are searched."""
    if space != "w+":
        if layers is not None:
            raise InputError(f"stylegan2: expected layers with space=w+ alone, found space={space}")
        return 1
    if layers is None or not 1 <= layers <= num_ws:
        found = "none" if layers is None else layers
        raise InputError(f"stylegan2: expected layers=1 to {num_ws} with space=w+, found {found}")
    return layers


def _check_classes(space: Space, classes: int | None) -> None:
    if space != "z" and classes is not None and classes > MOST_CLASSES:
        raise InputError(
            f"stylegan2: expected at most {MOST_CLASSES} classes with space={space}, "
            f"found {classes}; use space=z"
        )
