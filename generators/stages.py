"""Priors whose networks can be entered in between: activations after a stage, and the images made of them."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ggl.generators.base import Prior

__all__ = ["Chain", "Stage", "StagedPrior", "restored", "stage_of"]


@dataclass(frozen=True)
class Stage:
    """A place between two layers of a generator.

    Attributes:
        name: what is there, such as "96 maps of 8 px".
        size: activations of one image.
    """

    name: str
    size: int


class StagedPrior(Prior):
    """A prior that names its stages, coarse to fine, counted from 1.

    `decode(z, labels)` is `finish(features(z, labels, k), z, labels, k)` for every stage k, exactly.
    """

    stages: tuple[Stage, ...]
    reads_latents: bool = False
    """Whether what follows a stage reads latents too, as styles or conditions."""

    @abstractmethod
    def features(
        self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None, stage: int
    ) -> Float[Tensor, "n size"]:
        """Return the activations after a stage, an image a row; labels as in `decode`."""

    @abstractmethod
    def finish(
        self,
        a: Float[Tensor, "n size"],
        z: Float[Tensor, "n d"],
        labels: Int[Tensor, " n"] | None,
        stage: int,
    ) -> Float[Tensor, "n channels height width"]:
        """Return the images, in [0, 1], of activations after a stage.

        `z` is read where `reads_latents` says so, and by no other prior; labels as in `decode`.
        """


def stage_of(shape: Sequence[int]) -> Stage:
    """Return the stage of maps (c, h, w), or of vectors (d,).

    >>> stage_of((96, 8, 8))
    Stage(name='96 maps of 8 px', size=6144)
    """
    name = f"{shape[0]} maps of {shape[1]} px" if len(shape) == 3 else f"{shape[0]} values"
    return Stage(name, math.prod(shape))


def restored(a: Float[Tensor, "n size"], shape: Sequence[int]) -> Tensor:
    """Return rows of activations as maps (n, c, h, w), channels last, or as the vectors that they are."""
    x: Tensor = a.unflatten(1, tuple(shape))
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


class Chain:
    """Where a network of one layer after another may be entered: before each with weights but the first.

    An upsampling belongs to the layer that it stands before.

    Args:
        network: as it is.
        x: what it may read, of any value.
    """

    def __init__(self, network: nn.Sequential, x: Float[Tensor, "n d"]) -> None:
        layers, shapes = list(network), list[tuple[int, ...]]()
        for layer in layers:
            shapes.append(tuple(x.shape[1:]))
            x = layer(x)
        weighted = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
        places = [i for i, layer in enumerate(layers) if isinstance(layer, weighted)]
        self.cuts = [i - isinstance(layers[i - 1], nn.Upsample) for i in places[1:]]
        self.shapes = [shapes[i] for i in self.cuts]
        self.stages = tuple(map(stage_of, self.shapes))

    def begin(self, network: nn.Sequential, x: Float[Tensor, "n d"], stage: int) -> Float[Tensor, "n size"]:
        """Return the activations after a stage, of what the network reads."""
        made: Tensor = network[: self.cuts[stage - 1]](x).flatten(1)
        return made

    def finish(self, network: nn.Sequential, a: Float[Tensor, "n size"], stage: int) -> Tensor:
        """Return what the network makes of activations."""
        made: Tensor = network[self.cuts[stage - 1] :](restored(a, self.shapes[stage - 1]))
        return made
