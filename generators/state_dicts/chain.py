"""How layers follow each other: which way a kernel goes, where vectors become maps."""

import math
from collections.abc import Sequence
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
    tried = [_chain(layers.weights, norms, odd) for odd in ("convolution", "transposed")]
    found = [chain for chain in tried if len(chain) == len(layers.weights)]
    if not found:
        deepest = max(tried, key=len)
        layer = layers.weights[len(deepest)]
        last = deepest[-1].layer if deepest else None
        after = "" if last is None else f" after {last.name}.weight of {shape_text(last.weight)}"
        raise refusal(layers.path, f"{layer.name}.weight of shape {shape_text(layer.weight)}{after}")
    images = [chain for chain in found if _is_image(chain[-1])]
    if not images:
        end = found[0][-1]
        what = "values" if end.way == "linear" else "channels"
        raise refusal(layers.path, f"images of {end.outputs} {what}, not 1 or 3 channels of a square")
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


def _chain(weights: Sequence[Layer], norms: dict[str, Layer], odd: Way) -> list[Link]:
    """Return the layers in their places as far as they fit; odd kernels go the way `odd` where they can."""
    chain: list[Link] = []
    for layer in weights:
        before = chain[-1] if chain else None
        links = (_link(layer, way, norms.get(layer.name), before) for way in _ways(layer, before, odd))
        link = next((link for link in links if link is not None), None)
        if link is None:
            break
        chain.append(link)
    return chain


def _ways(layer: Layer, before: Link | None, odd: Way) -> tuple[Way, ...]:
    if layer.kind == "linear":
        return ("linear",)
    if before is None or layer.weight.shape[2] % 2 == 0:
        return ("transposed",)
    return ("convolution", "transposed") if odd == "convolution" else ("transposed", "convolution")


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
