"""Sketches of gradients: few numbers of many, linear in the gradient, that keep norms and inner products."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ggl.base.random import stream
from ggl.gradients.distance import Distance

__all__ = ["EXACT", "Sketch", "SketchAsked"]

EXACT = 2**16
"""Coordinates of a gradient up to which its sketch is the gradient itself."""

KEPT = 2**13
"""Coordinates of a parameter up to which it is kept whole in any sketch: a classifier's head, mostly."""

MATRIX, KERNELS = (8, 512), (32, 16)
"""Probes on either side of a large parameter's gradient, a matrix of outputs by the rest: of a linear layer,
whose inputs say most, and of a convolution, where each probe of the inputs costs a channel."""


class Sketch:
    """A linear map S of gradients to m numbers, the same for all candidates and for what was observed.

    A gradient of at most `EXACT` coordinates is kept whole. Of a larger one, parameters of up to 8,192
    coordinates are kept; the gradient G (o, i) of every other is seen through UᵀGV, U (o, r) and V (i, c)
    with entries N(0, 1/r) and N(0, 1/c), r by c 8 by 512 for a linear layer and 32 by 16 for a convolution.
    Then E‖UᵀGV‖² = ‖G‖², and for a single image's linear layer, G = e aᵀ, the squared norm's relative
    standard deviation is (1 + 2/r)(1 + 2/c) - 1 under the root: 0.50; 0.44 for a convolution of one position.
    UᵀGV = (EU)ᵀ(AV) of the outputs' gradients E and the inputs A: a layer's gradient need not be built.

    Attributes:
        size: m.
        groups: numbers of each parameter, in order.

    Args:
        shapes: of what is compared, by name.
        seed: of the probes, a stream for each name.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> None:
        numel = {name: int(torch.Size(shape).numel()) for name, shape in shapes.items()}
        whole = sum(numel.values()) <= EXACT
        self.names = list(shapes)
        self.probes: dict[str, tuple[Tensor, Tensor]] = {}
        for name, shape in shapes.items():
            if not whole and numel[name] > KEPT and len(shape) > 1:
                random = stream(seed, "sketch", name)
                rows, columns = MATRIX if len(shape) == 2 else KERNELS
                left = torch.randn(shape[0], rows, generator=random) / rows**0.5
                right = torch.randn(numel[name] // shape[0], columns, generator=random) / columns**0.5
                self.probes[name] = left, right
        self.groups = [self._size_of(name, numel[name]) for name in self.names]
        self.size = sum(self.groups)

    def to(self, device: torch.device, dtype: torch.dtype) -> "Sketch":
        """Move the probes, in place, and return the sketch."""
        self.probes = {
            name: (u.to(device, dtype), v.to(device, dtype)) for name, (u, v) in self.probes.items()
        }
        return self

    def _size_of(self, name: str, numel: int) -> int:
        if name not in self.probes:
            return numel
        left, right = self.probes[name]
        return left.shape[1] * right.shape[1]

    def apply(self, gradients: Mapping[str, Tensor]) -> Float[Tensor, " m"]:
        """Return a gradient's sketch; pure, and vmap-able."""
        return torch.cat([self.part(name, gradients[name][None])[0] for name in self.names])

    def part(self, name: str, gradient: Tensor) -> Float[Tensor, "n k"]:
        """Return one parameter's part of the sketches of n gradients (n, *shape)."""
        if name not in self.probes:
            return gradient.flatten(1)
        left, right = self.probes[name]
        return (left.T @ gradient.flatten(2) @ right).flatten(1)


@dataclass(frozen=True)
class SketchAsked:
    """What a backend is asked for of every candidate beside its distance.

    Attributes:
        apart: a sketch of every image's share of the batch's gradient, and not one of the whole; the shares
            add up to the whole.
    """

    sketch: Sketch
    distance: Distance
    apart: bool
