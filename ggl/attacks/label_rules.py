"""What a search makes of a batch's labels: they are known, or searched as coordinates beside the latents."""

from abc import ABC, abstractmethod

from jaxtyping import Float, Int
from torch import Tensor

from ggl.base.errors import InputError

__all__ = ["KNOWN", "KnownLabels", "LabelRule", "SearchedLabels", "SoftLabels", "classes_of"]


class LabelRule(ABC):
    """How an image's label coordinates, `size` of them after its latents, become its label."""

    name: str
    size: int

    @abstractmethod
    def place(
        self,
        coordinates: Float[Tensor, "n b size"],
        known: Int[Tensor, "n b"],
    ) -> Int[Tensor, "n b"] | Float[Tensor, "n b k"]:
        """Return the labels that the loss is computed with: classes, or probabilities of them."""


class KnownLabels(LabelRule):
    """The attacker knows the labels, or has read them off the gradient: nothing is searched."""

    name, size = "known", 0

    def place(
        self,
        coordinates: Float[Tensor, "n b size"],  # noqa: ARG002
        known: Int[Tensor, "n b"],
    ) -> Int[Tensor, "n b"]:
        """Return the known labels."""
        return known


class SearchedLabels(LabelRule):
    """The label is the largest of as many coordinates as there are classes.

    It is constant between two classes, so that a strategy that follows gradients keeps the labels that its
    starts drew.
    """

    name = "searched"

    def __init__(self, classes: int) -> None:
        self.size = _checked(classes)

    def place(
        self,
        coordinates: Float[Tensor, "n b size"],
        known: Int[Tensor, "n b"],  # noqa: ARG002
    ) -> Int[Tensor, "n b"]:
        """Return the classes of the largest coordinates."""
        return coordinates.argmax(-1)


class SoftLabels(LabelRule):
    """The label is a distribution, the softmax of its coordinates, as DLG has it (arXiv 1906.08935, eq. 2).

    A class-conditional prior decodes with the most probable class.
    """

    name = "soft"

    def __init__(self, classes: int) -> None:
        self.size = _checked(classes)

    def place(
        self,
        coordinates: Float[Tensor, "n b size"],
        known: Int[Tensor, "n b"],  # noqa: ARG002
    ) -> Float[Tensor, "n b size"]:
        """Return the softmax of the coordinates."""
        return coordinates.softmax(-1)


KNOWN = KnownLabels()


def classes_of(
    labels: Int[Tensor, "n b"] | Float[Tensor, "n b k"],
) -> Int[Tensor, "n b"]:
    """Return the classes of labels, the most probable ones where they are distributions."""
    return labels.argmax(-1) if labels.is_floating_point() else labels


def _checked(classes: int) -> int:
    if classes < 2:
        raise InputError(f"expected at least 2 classes to search a label among, found {classes}")
    return classes
