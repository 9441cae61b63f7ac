"""Per-candidate parameter gradients, held as the factors that make them.

A layer's weight gradient is a sum over positions of outer products of its input a and its output
gradient e. Inner products with a target and squared norms need only the factors: the first is one
more application of the layer, the second the ghost norm Σ_tt' (a_t·a_t')(e_t·e_t')
(Goodfellow, arXiv 1510.01799; for convolutions Bu et al., arXiv 2205.10683). Where positions are
many the gradient is built instead, a few candidates at a time.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

__all__ = ["ConvolutionWeight", "Dense", "EmbeddingWeight", "Factors", "LinearWeight"]

BLOCK_ELEMENTS = 2**21
"""How many numbers a block of built gradients holds at most, patches included (8 MiB of float32)."""

LARGE_PRODUCTS = 2**22
"""Multiplications of one candidate's weight gradient from which on it is built by itself on a CPU:
LeNet's layers (2**18) are faster together, ResNet-18's first (2**25) alone."""


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
    def dot(self, target: Tensor) -> Float[Tensor, " n"]:
        """Return every candidate's inner product with `target`, of the parameter's shape."""

    @abstractmethod
    def build(self) -> Tensor:
        """Return the gradients themselves, (n, *parameter shape)."""

    @abstractmethod
    def build_elements(self) -> int:
        """Return how many numbers a squared norm holds per candidate, intermediates included."""

    def ghost_pays(self) -> bool:
        """Say whether `ghost_square` costs less than building."""
        return False

    def ghost_square(self) -> Float[Tensor, " n"]:
        """Return the squared norms without building; only where `ghost_pays`."""
        raise NotImplementedError

    def probe(self, left: Float[Tensor, "o r"], right: Float[Tensor, "i c"]) -> Float[Tensor, "n r c"]:
        """Return leftᵀ G right of every gradient, a matrix of its first dimension by the rest."""
        return torch.cat([left.T @ part.build().flatten(2) @ right for part in self.blocks()])

    def square(self) -> Float[Tensor, " n"]:
        """Return every candidate's squared L2 norm."""
        if self.ghost_pays():
            return torch.cat([part.ghost_square() for part in self.blocks()])
        return torch.cat([_total(part.build().square()) for part in self.blocks()])

    def masked_square(self, keep: Tensor) -> Float[Tensor, " n"]:
        """Return the squared L2 norm of the coordinates where `keep` is true."""
        return torch.cat([_total((part.build() * keep).square()) for part in self.blocks()])

    def blocks(self) -> Iterator["Factors"]:
        """Split into blocks whose built gradients stay small."""
        size = max(1, BLOCK_ELEMENTS // max(1, self.build_elements()))
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

    def dot(self, target: Tensor) -> Tensor:  # noqa: D102
        return _total(self.gradient * target)

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
        return _total(F.linear(self.inputs, target) * self.errors)

    def probe(self, left: Tensor, right: Tensor) -> Tensor:  # noqa: D102
        return (self.errors @ left).transpose(1, 2) @ (self.inputs @ right)

    def build(self) -> Tensor:  # noqa: D102
        return self.errors.transpose(1, 2) @ self.inputs

    def build_elements(self) -> int:  # noqa: D102
        return self.inputs.shape[2] * self.errors.shape[2]

    def ghost_pays(self) -> bool:  # noqa: D102
        positions, i, o = self.inputs.shape[1], self.inputs.shape[2], self.errors.shape[2]
        return positions * (i + o) <= i * o

    def ghost_square(self) -> Tensor:  # noqa: D102
        return _ghost(self.inputs, self.errors)


@dataclass(frozen=True)
class ConvolutionWeight(Factors):
    """Gᵢ of a 2-d convolution: `inputs` already padded, (n, b, c, h, w); `errors` (n, b, o, h', w')."""

    inputs: Float[Tensor, "n b c h w"]
    errors: Float[Tensor, "n b o y x"]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def count(self) -> int:  # noqa: D102
        return len(self.inputs)

    def __getitem__(self, rows: slice) -> "ConvolutionWeight":
        return ConvolutionWeight(
            self.inputs[rows], self.errors[rows], self.kernel, self.stride, self.dilation, self.groups
        )

    def dot(self, target: Tensor) -> Tensor:  # noqa: D102
        response = F.conv2d(
            self.inputs.flatten(0, 1), target, None, self.stride, 0, self.dilation, self.groups
        )
        return _total(response.unflatten(0, self.errors.shape[:2]) * self.errors)

    def probe(self, left: Tensor, right: Tensor) -> Tensor:  # noqa: D102
        if self.groups > 1:
            return super().probe(left, right)
        n, b = self.errors.shape[:2]
        kernels = right.T.reshape(-1, self.inputs.shape[2], *self.kernel)
        seen = F.conv2d(self.inputs.flatten(0, 1), kernels, None, self.stride, 0, self.dilation)
        rows = torch.einsum("nboyx,or->nrbyx", self.errors, left).flatten(2)
        columns = seen.unflatten(0, (n, b)).transpose(1, 2).flatten(2)
        probed: Tensor = rows @ columns.transpose(1, 2)
        return probed

    def build(self) -> Tensor:  # noqa: D102
        return self.build_one_by_one() if self._large() else self.build_at_once()

    def build_one_by_one(self) -> Tensor:
        """Build by the library's own weight gradient: on a CPU the faster way for large layers."""
        shape = (self.errors.shape[2], self.inputs.shape[2] // self.groups, *self.kernel)
        return torch.stack(
            [
                conv2d_weight(a, shape, e, self.stride, 0, self.dilation, self.groups)
                for a, e in zip(self.inputs, self.errors, strict=True)
            ]
        )

    def build_at_once(self) -> Tensor:
        """Build all candidates by one product of output gradients and input patches."""
        n, b, o = self.errors.shape[:3]
        columns = F.unfold(self.inputs.flatten(0, 1), self.kernel, self.dilation, 0, self.stride)
        patches = _by_group(columns.unflatten(0, (n, b)), self.groups)
        errors = _by_group(self.errors.flatten(3), self.groups)
        return (errors @ patches.transpose(1, 2)).reshape(n, o, -1, *self.kernel)

    def build_elements(self) -> int:  # noqa: D102
        patch, pixels, positions, outputs = self._sizes()
        if self.ghost_pays():
            return self.groups * (pixels**2 + positions**2)
        return self.groups * patch * (outputs + (0 if self._large() else positions))

    def ghost_pays(self) -> bool:  # noqa: D102
        patch, pixels, positions, outputs = self._sizes()
        taps = self.kernel[0] * self.kernel[1]
        ghost = pixels**2 * (patch // taps) + positions**2 * (outputs + taps)
        return 2 * ghost <= positions * patch * outputs

    def ghost_square(self) -> Tensor:
        """Sum patch products a_t·a_t' from products of single pixels, which patches share."""
        b, _, height, width = self.inputs.shape[1:]
        pixels = _by_group(self.inputs.flatten(3), self.groups)
        pixel_products = (pixels.transpose(1, 2) @ pixels).unflatten(2, (b, height, width))
        pixel_products = pixel_products.unflatten(1, (b, height, width))
        y, x = self.errors.shape[3:]
        patch_products = torch.zeros((), dtype=pixels.dtype, device=pixels.device)
        for i, j in itertools.product(*map(range, self.kernel)):
            rows = _tap(i, self.dilation[0], self.stride[0], y)
            columns = _tap(j, self.dilation[1], self.stride[1], x)
            patch_products = patch_products + pixel_products[:, :, rows, columns][..., rows, columns]
        errors = _by_group(self.errors.flatten(3), self.groups)
        error_products = (errors.transpose(1, 2) @ errors).view_as(patch_products)
        return _total(patch_products * error_products).view(len(self), self.groups).sum(1)

    def _large(self) -> bool:
        """Say whether a candidate is work enough for a call of its own; a GPU wants them all at once."""
        patch, _, positions, outputs = self._sizes()
        return not self.inputs.is_cuda and self.groups * patch * positions * outputs >= LARGE_PRODUCTS

    def _sizes(self) -> tuple[int, int, int, int]:
        """Return patch length, input pixels, positions and output channels of one group."""
        b, c, height, width = self.inputs.shape[1:]
        patch = c // self.groups * self.kernel[0] * self.kernel[1]
        positions = b * self.errors.shape[3] * self.errors.shape[4]
        return patch, b * height * width, positions, self.errors.shape[2] // self.groups


def _tap(offset: int, dilation: int, stride: int, count: int) -> slice:
    """Return the pixels that one kernel row or column meets."""
    start = offset * dilation
    return slice(start, start + (count - 1) * stride + 1, stride)


def _by_group(x: Tensor, groups: int) -> Tensor:
    """Return x (n, b, groups · c, t) as (n · groups, c, b · t)."""
    grouped: Tensor = x.unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4)
    return grouped.flatten(3).flatten(0, 1)


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

    def dot(self, target: Tensor) -> Tensor:  # noqa: D102
        return _total(target[self.indices] * self.errors)

    def build(self) -> Tensor:  # noqa: D102
        chosen = F.one_hot(self.indices, self.rows).to(self.errors.dtype)
        return chosen.transpose(1, 2) @ self.errors

    def build_elements(self) -> int:  # noqa: D102
        return self.rows * (self.errors.shape[2] + self.indices.shape[1])


def _ghost(a: Tensor, e: Tensor) -> Tensor:
    """Return Σ_tt' (a_t·a_t')(e_t·e_t') of a (n, t, i) and e (n, t, o)."""
    return _total((a @ a.transpose(1, 2)) * (e @ e.transpose(1, 2)))


def _total(x: Tensor) -> Tensor:
    """Return the sum over all but the first dimension, in at least float32."""
    return x.flatten(1).sum(1, dtype=torch.promote_types(x.dtype, torch.float32))
