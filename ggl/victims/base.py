"""The contract of a victim: a classifier whose gradients are shared, split into features and head."""

from abc import ABC, abstractmethod
from typing import Protocol

from jaxtyping import Float
from torch import Tensor, nn

from ggl.base.errors import InputError

__all__ = ["SMALLEST_IMAGE", "Victim", "VictimBuilder", "check_image_size"]

SMALLEST_IMAGE = 8


class Victim(nn.Module, ABC):
    """A classifier that also gives the representation its last layer reads.

    Every parameter belongs to a Linear, Conv2d, BatchNorm2d, GroupNorm, LayerNorm or Embedding module
    that is used once per forward with the batch in dimension 0: what the layerwise gradients need.
    A subclass sets `fc`, the linear head, and writes `features`.
    """

    fc: nn.Linear

    @abstractmethod
    def features(self, x: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n features"]:
        """Return the penultimate representation of images `x` in [0, 1]."""

    def forward(self, x: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n classes"]:
        """Return the logits of images `x` in [0, 1]: the head applied to `features(x)`."""
        logits: Tensor = self.fc(self.features(x))
        return logits


class VictimBuilder(Protocol):
    """What is registered: a function of the three sizes that returns a randomly initialized network."""

    def __call__(self, *, in_channels: int, num_classes: int, image_size: int) -> nn.Module:
        """Return a network from images (n, in_channels, image_size, image_size) to (n, num_classes)."""


def check_image_size(
    name: str, image_size: int, *, at_least: int = SMALLEST_IMAGE, multiple_of: int = 1
) -> None:
    """Raise `InputError` unless victim `name` can take square images of `image_size` pixels."""
    if image_size < at_least:
        raise InputError(f"victim {name}: expected images of at least {at_least} pixels, found {image_size}")
    if image_size % multiple_of:
        raise InputError(
            f"victim {name}: expected an image size that is a multiple of {multiple_of} pixels, "
            f"found {image_size}"
        )
