"""Which parameters' gradients are stochastic on a victim that samples: by its bottleneck, or measured."""

import copy
import math
from collections.abc import Iterator
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ggl.base.errors import InputError
from ggl.base.random import stream
from ggl.defenses.bottleneck import Bottleneck
from ggl.gradients import GradientOracle, Gradients
from ggl.gradients.sampled import draw_noise, sampled_layers

__all__ = [
    "deviation_encoders",
    "gradient_cosines",
    "mean_encoders",
    "stochastic_names",
    "stochastic_parameters",
]

SIDES = tuple(dict.fromkeys((32, 28, 64, 16, 24, 8, *range(12, 129, 4), 224, 256)))
"""Of square images, in the order in which they are tried."""

CHANGED = 1e-9
"""Relative difference, in float64, from which on two inputs are not the same."""

REFUSALS = (RuntimeError, ValueError, IndexError, AssertionError)
"""What networks raise on images of a size that they can't take."""

_FOUND: WeakKeyDictionary[nn.Module, frozenset[str]] = WeakKeyDictionary()
"""What was found, since one attack asks again for every image; it follows from the architecture."""


def stochastic_names(model: nn.Module, image_shape: tuple[int, int, int] | None = None) -> frozenset[str]:
    """Return the parameters whose gradients the sampled layers make stochastic.

    These are the σ encoders, whose gradient is a multiple of the noise, and every layer that reads what
    the noise has changed: the decoder, and all that comes after. The μ encoders and earlier layers read
    what is the same in every pass. Two passes of random images, of different noise, tell the layers apart,
    in whatever order the model holds or runs them.

    Args:
        model: a victim with sampled layers; it is copied, and looked at once.
        image_shape: (c, h, w) of its images; None tries the usual square ones until one fits. Where none
            does, the layers from the first sampled one on are taken in the model's own order.

    Raises:
        InputError: the model samples nothing.
    """
    if not sampled_layers(model):
        raise InputError(
            f"expected a victim with a sampled layer, as a defense's wrap() returns it, found "
            f"{type(model).__name__} without one"
        )
    if model not in _FOUND:
        copied = copy.deepcopy(model).cpu().double().eval()
        shapes = _probe_shapes(copied) if image_shape is None else iter([image_shape])
        noisy = _layers_reading_noise(copied, shapes)
        later = _registered_later(copied) if noisy is None else _parameters_of(copied, noisy)
        _FOUND[model] = later | deviation_encoders(copied)
    return _FOUND[model]


def mean_encoders(model: nn.Module) -> frozenset[str]:
    """Return the parameters of the bottlenecks' μ encoders."""
    return _encoders(model, "mean")


def deviation_encoders(model: nn.Module) -> frozenset[str]:
    """Return the parameters of the bottlenecks' σ encoders."""
    return _encoders(model, "deviation")


def stochastic_parameters(
    model: nn.Module,
    images: Float[Tensor, "b c h w"],
    labels: Int[Tensor, " b"],
    *,
    draws: int = 20,
    threshold: float = 0.5,
) -> frozenset[str]:
    """Return the parameters of layers whose gradients agree too little from one noise draw to the next.

    What `stochastic_names` derives, measured instead, on any victim that samples.

    Args:
        model: the victim.
        images: one client's batch.
        labels: its classes.
        draws: gradients that are compared, at least 2.
        threshold: mean pairwise cosine below which a layer is stochastic.
    """
    cosines = gradient_cosines(model, images, labels, draws=draws)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return frozenset(name for name in names if cosines[_layer_of(name)] < threshold)


def gradient_cosines(
    model: nn.Module, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"], *, draws: int = 20
) -> dict[str, float]:
    """Return, by layer, the mean cosine of two gradients of one batch under different noise.

    Of n directions uᵢ it is (‖Σ uᵢ‖² - Σ ‖uᵢ‖²) / (n (n - 1)); a gradient that is always zero counts as 1.
    A layer's weight and bias are one vector: of a layer that reads noise, the weight's gradient is
    stochastic, and the bias's may be all but the same in every draw.

    Raises:
        InputError: fewer than two draws.
    """
    if draws < 2:
        raise InputError(f"expected at least 2 noise draws to compare, found {draws}")
    oracle = GradientOracle(model, backend="sequential")
    totals: dict[str, Tensor] = {}
    squares: dict[str, float] = {}
    for seed in range(draws):
        for layer, gradient in _by_layer(oracle.observe(images, labels, seed=seed)).items():
            direction = nn.functional.normalize(gradient, dim=0)
            totals[layer] = totals.get(layer, torch.zeros_like(direction)) + direction
            squares[layer] = squares.get(layer, 0.0) + float(direction.square().sum())
    return {
        layer: (float(total.square().sum()) - squares[layer]) / (draws * (draws - 1))
        if squares[layer]
        else 1.0
        for layer, total in totals.items()
    }


def _by_layer(gradients: Gradients) -> dict[str, Tensor]:
    layers: dict[str, list[Tensor]] = {}
    for name, gradient in gradients.items():
        layers.setdefault(_layer_of(name), []).append(gradient.double().flatten())
    return {layer: torch.cat(parts) for layer, parts in layers.items()}


def _layer_of(name: str) -> str:
    return name.rpartition(".")[0]


def _encoders(model: nn.Module, which: str) -> frozenset[str]:
    layers = sampled_layers(model).items()
    prefixes = tuple(f"{_prefix(name)}{which}." for name, layer in layers if isinstance(layer, Bottleneck))
    return frozenset(name for name, _ in model.named_parameters() if name.startswith(prefixes))


def _prefix(name: str) -> str:
    return f"{name}." if name else ""


def _layers_reading_noise(model: nn.Module, shapes: Iterator[tuple[int, int, int]]) -> dict[str, bool] | None:
    """Return, of every module that ran, whether noise changes its input; None where no shape fits."""
    for shape in shapes:
        images = torch.rand((2, *shape), generator=stream(0, "noise probe"), dtype=torch.float64)
        try:
            first, second = (_inputs(model, images, seed) for seed in (0, 1))
        except REFUSALS:
            continue
        return {name: _differ(first[name], second[name]) for name in first}
    return None


@torch.no_grad()
def _inputs(model: nn.Module, images: Tensor, seed: int) -> dict[str, list[Tensor]]:
    """Return what every module reads in one forward pass."""
    draw_noise(model, seed)
    inputs: dict[str, list[Tensor]] = {}

    def hook(name: str, arguments: tuple[object, ...], named: dict[str, object]) -> None:
        tensors = [x for x in (*arguments, *named.values()) if isinstance(x, Tensor)]
        inputs.setdefault(name, []).extend(x.clone() for x in tensors)

    handles = [
        module.register_forward_pre_hook(lambda _, a, k, name=name: hook(name, a, k), with_kwargs=True)
        for name, module in model.named_modules()
    ]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return inputs


def _differ(first: list[Tensor], second: list[Tensor]) -> bool:
    pairs = zip(first, second, strict=True)
    return any(float((a.double() - b).norm()) > CHANGED * float(a.double().norm()) for a, b in pairs)


def _parameters_of(model: nn.Module, noisy: dict[str, bool]) -> frozenset[str]:
    """Return the parameters of the noisy modules; one that did not run goes with the module around it."""
    found = set()
    for name, _ in model.named_parameters():
        owner = _layer_of(name)
        while owner and owner not in noisy:
            owner = _layer_of(owner)
        if noisy.get(owner, False):
            found.add(name)
    return frozenset(found)


def _registered_later(model: nn.Module) -> frozenset[str]:
    """Return the parameters from the first sampled layer on, its own μ encoder left out."""
    names = [name for name, _ in model.named_parameters()]
    prefix = _prefix(next(iter(sampled_layers(model))))
    start = next((k for k, name in enumerate(names) if name.startswith(prefix)), len(names))
    return frozenset(name for name in names[start:] if not name.startswith(f"{prefix}mean."))


def _probe_shapes(model: nn.Module) -> Iterator[tuple[int, int, int]]:
    """Yield image shapes that the model might take, by what its layers read."""
    convolutions = [m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    if convolutions:
        usual = [channels for channels in (3, 1) if channels in convolutions]
        for channels in dict.fromkeys([convolutions[0], *usual]):
            yield from ((channels, side, side) for side in SIDES)
        return
    for width in dict.fromkeys(m.in_features for m in model.modules() if isinstance(m, nn.Linear)):
        for channels in (3, 1):
            side = math.isqrt(width // channels)
            if channels * side * side == width:
                yield channels, side, side
        yield 1, 1, width
