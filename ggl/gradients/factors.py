"""Per-candidate parameter gradients, held as the factors that make them.

A layer's weight gradient is a sum over positions of outer products of its input a and its output
gradient e. Inner products with a target and squared norms need only the factors: the first is one
more application of the layer, the second the ghost norm Σ_tt' (a_t·a_t')(e_t·e_t')
(Goodfellow, arXiv 1510.01799; for convolutions Bu et al., arXiv 2205.10683). Where positions are
many the gradient is built instead, a few candidates at a time, and both are read off it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

__all__ = ["GHOST_PRODUCTS", "Dense", "EmbeddingWeight", "Factors", "LinearWeight", "ghost", "total"]

BLOCK_ELEMENTS = 2**20
"""How many numbers a block holds at most, of built gradients, or of products for a ghost norm (4 MiB of
float32): caches hold it."""

GHOST_PRODUCTS = 32
"""Multiplications of a ghost norm that are as cheap as to write and read one coordinate of a gradient. Its
inner product with the target takes as many as building does, so that these are all that differs."""

EXACT = (torch.float32, torch.float64)
"""What sums are made in as it comes; of anything narrower they are in float32."""


class Factors(ABC):
    """One parameter's gradient for n candidates; leading dimension n in every tensor."""

    def __len__(self) -> int:
        return self.count()

    @abstractmethod
    def count(self) -> int:
        """Return n."""

    @abstractmethod
    def __getitem__(self, rows: slice) -> "Factors":
        """Return the factors of some candidates."""

    @abstractmethod
    def build(self) -> Tensor:
        """Return the gradients themselves, (n, *parameter shape)."""

    @abstractmethod
    def build_elements(self) -> int:
        """Return how many numbers building holds per candidate, intermediates included."""

    def ghost_elements(self) -> int | None:
        """Return how many numbers a ghost norm holds per candidate; None where building is cheaper."""
        return None

    def ghost_square(self) -> Float[Tensor, " n"]:
        """Return the squared norms without building; only where `ghost_elements` are given."""
        raise NotImplementedError

    def dot(self, target: Tensor) -> Float[Tensor, " n"]:
        """Return the inner products with `target` without building; only where `ghost_square` is."""
        raise NotImplementedError

    def probe(self, left: Float[Tensor, "o r"], right: Float[Tensor, "i c"]) -> Float[Tensor, "n r c"]:
        """Return leftᵀ G right of every gradient, a matrix of its first dimension by the rest."""
        parts = self.blocks(self.build_elements())
        return torch.cat([left.T @ part.build().flatten(2) @ right for part in parts])

    def moments(self, target: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return ⟨g, target⟩, ‖g‖², and ‖g‖² of the coordinates where `keep` is true, (n,) each."""
        held = self.ghost_elements()
        if keep is None and held is not None:
            square = _joined([part.ghost_square() for part in self.blocks(held)])
            return self.dot(target), square, square
        dots, squares, kept = [], [], []
        for part in self.blocks(self.build_elements()):
            gradient = part.build()
            dots.append(total(gradient * target))
            squares.append(_square(gradient))
            if keep is not None:
                kept.append(_square(gradient * keep))
        square = _joined(squares)
        return _joined(dots), square, _joined(kept) if kept else square

    def blocks(self, elements: int) -> Iterator["Factors"]:
        """Split into blocks that stay small, of candidates that hold so many numbers each."""
        size = max(1, BLOCK_ELEMENTS // max(1, elements))
        if len(self) <= size:
            yield self
            return
        for start in range(0, len(self), size):
            yield self[start : start + size]


@dataclass(frozen=True)
class Dense(Factors):
    """A gradient small enough to hold: biases, normalization layers."""

    gradient: Tensor

    def count(self) -> int:  # noqa: D102
        return len(self.gradient)

    def __getitem__(self, rows: slice) -> "Dense":
        return Dense(self.gradient[rows])

    def build(self) -> Tensor:  # noqa: D102
        return self.gradient

    def build_elements(self) -> int:  # noqa: D102
        return self.gradient[0].numel()


@dataclass(frozen=True)
class LinearWeight(Factors):
    """Gᵢ = eᵢᵀ aᵢ over positions t."""

    inputs: Float[Tensor, "n t i"]
    errors: Float[Tensor, "n t o"]

    def count(self) -> int:  # noqa: D102
        return len(self.inputs)

    def __getitem__(self, rows: slice) -> "LinearWeight":
        return LinearWeight(self.inputs[rows], self.errors[rows])

    def dot(self, target: Tensor) -> Tensor:  # noqa: D102
        return total(F.linear(self.inputs, target) * self.errors)

    def probe(self, left: Tensor, right: Tensor) -> Tensor:  # noqa: D102
        return (self.errors @ left).transpose(1, 2) @ (self.inputs @ right)

    def build(self) -> Tensor:  # noqa: D102
        return self.errors.transpose(1, 2) @ self.inputs

    def build_elements(self) -> int:  # noqa: D102
        return self.inputs.shape[2] * self.errors.shape[2]

    def ghost_elements(self) -> int | None:  # noqa: D102
        positions, i, o = self.inputs.shape[1], self.inputs.shape[2], self.errors.shape[2]
        return 2 * positions**2 if positions**2 * (i + o) <= GHOST_PRODUCTS * i * o else None

    def ghost_square(self) -> Tensor:  # noqa: D102
        if self.inputs.shape[1] == 1:
            return total(self.inputs.square()) * total(self.errors.square())
        return ghost(self.inputs.transpose(1, 2), self.errors.transpose(1, 2))


@dataclass(frozen=True)
class EmbeddingWeight(Factors):
    """Gᵢ of a look-up table of `rows` rows: the output gradients summed by index."""

    indices: Int[Tensor, "n t"]
    errors: Float[Tensor, "n t d"]
    rows: int

    def count(self) -> int:  # noqa: D102
        return len(self.indices)

    def __getitem__(self, rows: slice) -> "EmbeddingWeight":
        return EmbeddingWeight(self.indices[rows], self.errors[rows], self.rows)

    def build(self) -> Tensor:  # noqa: D102
        chosen = F.one_hot(self.indices, self.rows).to(self.errors.dtype)
        return chosen.transpose(1, 2) @ self.errors

    def build_elements(self) -> int:  # noqa: D102
        return self.rows * (self.errors.shape[2] + self.indices.shape[1])


def ghost(a: Float[Tensor, "n i t"], e: Float[Tensor, "n o t"]) -> Float[Tensor, " n"]:
    """Return Σ_tt' (a_t·a_t')(e_t·e_t'), the squared norm of Σ_t e_t a_tᵀ."""
    return total((a.transpose(1, 2) @ a) * (e.transpose(1, 2) @ e))


def total(x: Tensor) -> Float[Tensor, " n"]:
    """Return the sum over all but the first dimension, in at least float32."""
    over = 1 if x.dim() == 2 else tuple(range(1, x.dim()))
    return x.sum(over) if x.dtype in EXACT else x.sum(over, dtype=torch.float32)


def _square(x: Tensor) -> Float[Tensor, " n"]:
    """Return the squared norms over all but the first dimension: of rows, without a copy, then of these."""
    if x.dim() == 2:
        return total(x.square())
    exact = None if x.dtype in EXACT else torch.float32
    norms: Tensor = torch.linalg.vector_norm(x.flatten(2), dim=2, dtype=exact)
    return norms.square().sum(1)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
