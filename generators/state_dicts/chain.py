"""How layers follow each other: which way a kernel goes, where vectors become maps."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ggl.generators.state_dicts.layers import Layer, Layers, refusal, shape_text

__all__ = ["Link", "find_chain", "square_side"]

Way: TypeAlias = Literal["linear", "transposed", "convolution"]


@dataclass(frozen=True)
class Link:
    """A layer with weights in its place.

    Attributes:
        layer: in the file.
        way: a kernel is of a transposed convolution or a plain one.
        inputs: features, or channels of its kernels, that it takes.
        outputs: those that it gives.
        side: height and width of the maps that vectors are shaped to before it; None where they are not.
        norm: the normalization behind it, of its outputs or of the maps that they are shaped to.
    """

    layer: Layer
    way: Way
    inputs: int
    outputs: int
    side: int | None
    norm: Layer | None

    @property
    def kernel(self) -> int:
        """Height and width of its kernels."""
        return self.layer.weight.shape[2]


def find_chain(layers: Layers) -> list[Link]:
    """Return the layers with weights, each with what it takes and gives.

    A kernel with as many inputs as outputs may go either way: kernels of even size are transposed ones,
    which alone keep to whole pixels; odd ones go the way of the file's other odd ones, else they are plain.

    Raises:
        WeightsError: a layer does not fit the one before it, or the last makes no image of 1 or 3 channels.
    """
    norms = {
        before.name: layer
        for before, layer in zip(layers.ordered, layers.ordered[1:], strict=False)
        if layer.kind == "norm"
    }
    deepest: list[Link] = []
    found = []
    for chain in _chains(layers.weights, norms, []):
        if len(chain) > len(deepest):
            deepest = chain
        if len(chain) == len(layers.weights):
            found.append(chain)
    if not found:
        next_layer = layers.weights[len(deepest)]
        last = layers.weights[len(deepest) - 1] if deepest else None
        after = "" if last is None else f" after {last.name}.weight of {shape_text(last.weight)}"
        raise refusal(
            layers.path, f"{next_layer.name}.weight of shape {shape_text(next_layer.weight)}{after}"
        )
    images = [chain for chain in found if _is_image(chain[-1])]
    if not images:
        last_link = found[0][-1]
        what = "values" if last_link.way == "linear" else "channels"
        raise refusal(layers.path, f"images of {last_link.outputs} {what}, not 1 or 3 channels of a square")
    return min(images, key=_mixture)


def _mixture(chain: Sequence[Link]) -> tuple[int, int]:
    """Return what orders chains: how many ways the odd kernels go, then how many are transposed."""
    odd = [link.way for link in chain if link.way != "linear" and link.kernel % 2]
    return len(set(odd)), odd.count("transposed")


def _is_image(link: Link) -> bool:
    if link.way != "linear":
        return link.outputs in (1, 3)
    return any(square_side(link.outputs, channels) for channels in (1, 3))


def square_side(values: int, channels: int) -> int | None:
    """Return the side of as many square maps that hold the values, if they are square."""
    side = math.isqrt(values // channels)
    return side if side > 0 and channels * side**2 == values else None


def _chains(weights: Sequence[Layer], norms: dict[str, Layer], chain: list[Link]) -> Iterator[list[Link]]:
    """Yield every beginning of a chain, whole ones among them."""
    yield chain
    if len(chain) == len(weights):
        return
    layer = weights[len(chain)]
    for way in _ways(layer, first=not chain):
        link = _link(layer, way, norms.get(layer.name), chain[-1] if chain else None)
        if link is not None:
            yield from _chains(weights, norms, [*chain, link])


def _ways(layer: Layer, *, first: bool) -> tuple[Way, ...]:
    if layer.kind == "linear":
        return ("linear",)
    return ("transposed",) if first or layer.weight.shape[2] % 2 == 0 else ("convolution", "transposed")


def _link(layer: Layer, way: Way, norm: Layer | None, before: Link | None) -> Link | None:
    """Return a layer in its place, None where it does not fit."""
    first, second = layer.weight.shape[:2]
    inputs, outputs = (first, second) if way == "transposed" else (second, first)
    if "bias" in layer.tensors and len(layer.tensors["bias"]) != outputs:
        return None
    if norm is not None and way != "linear" and norm.features != outputs:
        return None
    side = None
    if before is not None and before.way == "linear" and way != "linear":
        side = square_side(before.outputs, inputs)
        fits = side is not None
        features = before.outputs if before.norm is None else before.norm.features
        fits = fits and features in (before.outputs, inputs)
    else:
        fits = before is None or (before.outputs == inputs and (before.way == "linear") == (way == "linear"))
        features = inputs if before is None or before.norm is None else before.norm.features
        fits = fits and features == inputs
    return Link(layer, way, inputs, outputs, side, norm) if fits else None
