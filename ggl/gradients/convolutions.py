"""The gradient factors of a 2-d convolution's weights.

On a CPU, the gradients of several candidates are built by one call of the library's own weight gradient,
their channels side by side as groups; where input channels are too few for it, and on a GPU, by one product
of output gradients and patches.
"""

import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from ggl.gradients.factors import GHOST_PRODUCTS, Factors, ghost, total

__all__ = ["ConvolutionWeight"]

FEW_CHANNELS = 4
"""Input channels up to which patches are faster: the library's kernels take 8 or 16 at a time."""

FEW_PATCH_ELEMENTS = 2**18
"""Numbers of one candidate's patches up to which they are: caches hold these, and not those of 224 pixels."""


@dataclass(frozen=True)
class ConvolutionWeight(Factors):
    """Gᵢ of a 2-d convolution: `inputs` (n, b, c, h, w), `errors` (n, b, o, h', w')."""

    inputs: Float[Tensor, "n b c h w"]
    errors: Float[Tensor, "n b o y x"]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def count(self) -> int:  # noqa: D102
        return len(self.inputs)

    def __getitem__(self, rows: slice) -> "ConvolutionWeight":
        return ConvolutionWeight(
            self.inputs[rows],
            self.errors[rows],
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )

    def dot(self, target: Tensor) -> Tensor:  # noqa: D102
        response = F.conv2d(
            self.inputs.flatten(0, 1), target, None, self.stride, self.padding, self.dilation, self.groups
        )
        return total(response.unflatten(0, self.errors.shape[:2]) * self.errors)

    def probe(self, left: Tensor, right: Tensor) -> Tensor:  # noqa: D102
        if self.groups > 1:
            return super().probe(left, right)
        n, b = self.errors.shape[:2]
        kernels = right.T.reshape(-1, self.inputs.shape[2], *self.kernel)
        seen = F.conv2d(self.inputs.flatten(0, 1), kernels, None, self.stride, self.padding, self.dilation)
        rows = torch.einsum("nboyx,or->nrbyx", self.errors, left).flatten(2)
        columns = seen.unflatten(0, (n, b)).transpose(1, 2).flatten(2)
        probed: Tensor = rows @ columns.transpose(1, 2)
        return probed

    def build(self) -> Tensor:  # noqa: D102
        return self.build_from_patches() if self._by_patches() else self.build_as_groups()

    def build_as_groups(self) -> Tensor:
        """Build by the library's own weight gradient, each candidate a group of channels."""
        n, _, o = self.errors.shape[:3]
        inputs, errors = (x.transpose(0, 1).flatten(1, 2) for x in (self.inputs, self.errors))
        shape = (n * o, self.inputs.shape[2] // self.groups, *self.kernel)
        built: Tensor = conv2d_weight(
            inputs, shape, errors, self.stride, self.padding, self.dilation, n * self.groups
        )
        return built.view(n, o, *built.shape[1:])

    def build_from_patches(self) -> Tensor:
        """Build by one product of output gradients and input patches."""
        n, _, o = self.errors.shape[:3]
        errors = _by_group(self.errors.flatten(3), self.groups)
        return (errors @ self._patches().transpose(1, 2)).reshape(n, o, -1, *self.kernel)

    def build_elements(self) -> int:  # noqa: D102
        patch, _, positions, outputs = self._sizes()
        return self.groups * patch * (outputs + (positions if self._by_patches() else 0))

    def ghost_elements(self) -> int | None:  # noqa: D102
        patch, pixels, positions, outputs = self._sizes()
        if min(self._pixel_products(), self._patch_products()) > GHOST_PRODUCTS * patch * outputs:
            return None
        held = patch * positions if self._patch_products() <= self._pixel_products() else pixels**2
        return self.groups * (held + 2 * positions**2)

    def ghost_square(self) -> Tensor:  # noqa: D102
        if self._patch_products() <= self._pixel_products():
            errors = _by_group(self.errors.flatten(3), self.groups)
            return ghost(self._patches(), errors).view(len(self), self.groups).sum(1)
        return self.ghost_square_from_pixels()

    def ghost_square_from_pixels(self) -> Tensor:
        """Sum patch products a_t·a_t' from products of single pixels, which patches share."""
        padded = self._padded()
        b, _, height, width = padded.shape[1:]
        pixels = _by_group(padded.flatten(3), self.groups)
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
        return total(patch_products * error_products).view(len(self), self.groups).sum(1)

    def _padded(self) -> Float[Tensor, "n b c h w"]:
        up, left = self.padding
        return F.pad(self.inputs, (left, left, up, up)) if up or left else self.inputs

    def _patches(self) -> Float[Tensor, "m patch positions"]:
        """Return every group's patches, candidate by candidate, (n · groups, patch, b · positions)."""
        seen = self._padded()
        for k in (0, 1):
            reach = (self.kernel[k] - 1) * self.dilation[k] + 1
            seen = seen.unfold(3 + k, reach, self.stride[k])[..., :: self.dilation[k]]
        n, b, _, y, x = seen.shape[:5]
        ordered: Tensor = seen.unflatten(2, (self.groups, -1)).permute(0, 2, 3, 6, 7, 1, 4, 5)
        return ordered.reshape(n * self.groups, -1, b * y * x)

    def _by_patches(self) -> bool:
        patch, _, positions, _ = self._sizes()
        few = self.groups == 1 and self.inputs.shape[2] <= FEW_CHANNELS
        return self.inputs.is_cuda or (few and patch * positions <= FEW_PATCH_ELEMENTS)

    def _pixel_products(self) -> int:
        """Return the multiplications of one group's ghost norm by pixels."""
        patch, pixels, positions, outputs = self._sizes()
        taps = self.kernel[0] * self.kernel[1]
        return pixels**2 * (patch // taps) + positions**2 * (outputs + taps)

    def _patch_products(self) -> int:
        """Return the multiplications of one group's ghost norm by patches."""
        patch, _, positions, outputs = self._sizes()
        return positions**2 * (patch + outputs)

    def _sizes(self) -> tuple[int, int, int, int]:
        """Return patch length, padded input pixels, positions and output channels of one group."""
        b, c, height, width = self.inputs.shape[1:]
        patch = c // self.groups * self.kernel[0] * self.kernel[1]
        pixels = b * (height + 2 * self.padding[0]) * (width + 2 * self.padding[1])
        positions = b * self.errors.shape[3] * self.errors.shape[4]
        return patch, pixels, positions, self.errors.shape[2] // self.groups


def _tap(offset: int, dilation: int, stride: int, count: int) -> slice:
    """Return the pixels that one kernel row or column meets."""
    start = offset * dilation
    return slice(start, start + (count - 1) * stride + 1, stride)


def _by_group(x: Tensor, groups: int) -> Tensor:
    """Return x (n, b, groups · c, t) as (n · groups, c, b · t)."""
    grouped: Tensor = x.unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4)
    return grouped.flatten(3).flatten(0, 1)
