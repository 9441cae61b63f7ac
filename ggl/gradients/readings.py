"""What the layerwise backend reads off the layers' factors, one layer after the other, as these arrive."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from ggl.gradients.distance import Distance, Moments, distance_from_moments, plain_distance
from ggl.gradients.factors import Factors
from ggl.gradients.sketch import Sketch
from ggl.gradients.view import Gradients, View

__all__ = ["MomentsReading", "Reading", "SketchReading", "WholeReading", "score_reading"]

BUILT_ELEMENTS = 2**24
"""Gradient coordinates that are held at once for steps that need them (64 MiB of float32)."""


class Reading(ABC):
    """Reads what one view needs of its candidates.

    Args:
        view: the view.
        rows: where its candidates stand in the chunk.
        names: parameters that are looked at.
    """

    def __init__(self, view: View, rows: slice, names: Sequence[str]) -> None:
        self.view, self.rows, self.names = view, rows, names
        self.target = next(iter(view.target.values()))

    def __len__(self) -> int:
        count: int = self.rows.stop - self.rows.start
        return count

    def take(self, factors: Mapping[str, Factors]) -> None:
        """Read the factors of one layer's parameters, of all candidates of the chunk."""
        for name, part in factors.items():
            self.read(name, part if len(part) == len(self) else part[self.rows])

    @abstractmethod
    def read(self, name: str, factors: Factors) -> None:
        """Read the factors of one parameter."""

    @abstractmethod
    def result(self) -> Tensor:
        """Return what was asked for, a row a candidate; parameters that were not used have zeros."""


class MomentsReading(Reading):
    """Distances of a view for which inner products and norms are enough, (n,)."""

    def __init__(self, view: View, rows: slice, distance: Distance, names: Sequence[str]) -> None:
        super().__init__(view, rows, _entering(view, names))
        self.distance = distance
        self._keep = view.mask.keep if view.mask else {}
        self._moments: dict[str, tuple[Tensor, ...] | None] = dict.fromkeys(self.names)

    def read(self, name: str, factors: Factors) -> None:  # noqa: D102
        if name in self._moments:
            keep, target = self._keep.get(name), self.view.target[name]
            masked = target if keep is None else target * keep
            self._moments[name] = factors.moments(masked, keep)

    def result(self) -> Float[Tensor, " n"]:  # noqa: D102
        zeros = (self.target.new_zeros(len(self)),) * 3
        found = [zeros if part is None else part for part in self._moments.values()]
        dot, square, masked = (list(rows) for rows in zip(*found, strict=True))
        kinds = (dot, square, masked) if self.view.mask else (dot, square)
        moments = Moments(*(torch.stack(rows, dim=1).to(self.target.dtype) for rows in kinds))
        return distance_from_moments(moments, self.view, list(self._moments), self.distance)


class WholeReading(Reading):
    """Any function of a gradient, built a few candidates at a time; its values, a row a candidate."""

    def __init__(
        self, view: View, rows: slice, measure: Callable[[Gradients], Tensor], names: Sequence[str]
    ) -> None:
        super().__init__(view, rows, _entering(view, names))
        self.measure = measure
        self._factors: dict[str, Factors] = {}

    def read(self, name: str, factors: Factors) -> None:  # noqa: D102
        if name in self.names:
            self._factors[name] = factors

    def result(self) -> Tensor:  # noqa: D102
        block = max(1, BUILT_ELEMENTS // sum(self.view.target[name].numel() for name in self.names))
        parts = []
        for start in range(0, len(self), block):
            rows = slice(start, min(len(self), start + block))
            parts.append(vmap(self.measure)({name: self._built(name, rows) for name in self.names}))
        return torch.cat(parts)

    def _built(self, name: str, rows: slice) -> Tensor:
        if name in self._factors:
            return self._factors[name][rows].build()
        target = self.view.target[name]
        return target.new_zeros((rows.stop - rows.start, *target.shape))


class SketchReading(Reading):
    """Sketches of what a linear view compares, (n, m)."""

    def __init__(self, view: View, rows: slice, sketch: Sketch) -> None:
        super().__init__(view, rows, sketch.names)
        self.sketch = sketch
        self._keep = view.mask.keep if view.mask else {}
        self._parts: dict[str, Tensor | None] = dict.fromkeys(sketch.names)

    def read(self, name: str, factors: Factors) -> None:  # noqa: D102
        if name in self._parts:
            self._parts[name] = self._sketched(name, factors).to(self.target.dtype)

    def _sketched(self, name: str, factors: Factors) -> Float[Tensor, "n k"]:
        keep = self._keep.get(name)
        if keep is not None:
            blocks = factors.blocks(factors.build_elements())
            return torch.cat([self.sketch.part(name, block.build() * keep) for block in blocks])
        if name in self.sketch.probes:
            return factors.probe(*self.sketch.probes[name]).flatten(1)
        return factors.build().flatten(1)

    def result(self) -> Float[Tensor, "n m"]:  # noqa: D102
        return torch.cat([self._unused(name) if p is None else p for name, p in self._parts.items()], dim=1)

    def _unused(self, name: str) -> Tensor:
        target = self.view.target[name]
        return self.sketch.part(name, target.new_zeros((len(self), *target.shape)))


def score_reading(view: View, rows: slice, distance: Distance, names: Sequence[str]) -> Reading:
    """Return the reading whose results are the distances of a view's candidates."""
    if view.takes_moments:
        return MomentsReading(view, rows, distance, names)
    return WholeReading(view, rows, lambda gradients: plain_distance(gradients, view, distance), names)


def _entering(view: View, names: Sequence[str]) -> list[str]:
    """Return the parameters that enter what a view compares."""
    return [name for name in names if view.needs_ignored or name not in view.ignored]
