"""The network that a chain of layers, what stands between them, and what was asked for make together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from ggl.generators.ranges import Range
from ggl.generators.state_dicts.chain import Link
from ggl.generators.state_dicts.geometry import Geometry, Step
from ggl.generators.state_dicts.layers import Layer
from ggl.generators.state_dicts.places import Place

__all__ = ["Plan", "build_network", "folded"]


@dataclass(frozen=True)
class Plan:
    """A generator's network: from vectors (n, d) to images.

    Attributes:
        chain: its layers with weights.
        places: what stands behind each but the last.
        geometry: None for layers that are all linear.
        activations: behind each layer but the last; None for none.
        epsilons: of each normalization, in order.
        end: what its values are.
        image_shape: (channels, height, width).
    """

    chain: Sequence[Link]
    places: Sequence[Place]
    geometry: Geometry | None
    activations: Sequence[nn.Module | None]
    epsilons: Sequence[float]
    end: Range
    image_shape: tuple[int, int, int]

    def doubles(self, i: int) -> bool:
        """Say whether maps are upsampled before a layer."""
        return self.geometry is not None and i in self.geometry.doubled


def build_network(plan: Plan) -> nn.Sequential:
    """Return the network in float64, in eval mode, as its authors have it: nothing folded."""
    epsilons = iter(plan.epsilons)
    steps = iter(() if plan.geometry is None else plan.geometry.steps)
    modules: list[nn.Module] = []
    if plan.chain[0].way != "linear":
        modules.append(nn.Unflatten(1, (plan.chain[0].inputs, 1, 1)))
    for i, link in enumerate(plan.chain):
        if plan.doubles(i):
            modules.append(nn.Upsample(scale_factor=2))
        modules.append(_weights(link, (1, 0, 0) if link.way == "linear" else next(steps)))
        after = plan.chain[i + 1] if i + 1 < len(plan.chain) else None
        modules += _behind(plan, i, link, after, epsilons)
    if plan.chain[-1].way == "linear":
        modules.append(nn.Unflatten(1, plan.image_shape))
    return nn.Sequential(*modules, plan.end.function()).eval().requires_grad_(False)


def folded(network: nn.Sequential) -> nn.Sequential:
    """Return the same function, float32: each normalization folded into the layer before it, where one is."""
    modules: list[nn.Module] = []
    for module in network:
        before = modules[-1] if modules else None
        if isinstance(module, nn.BatchNorm1d) and isinstance(before, nn.Linear):
            modules[-1] = fuse_linear_bn_eval(before, module)
        elif isinstance(module, nn.BatchNorm2d) and isinstance(before, nn.Conv2d | nn.ConvTranspose2d):
            transposed = isinstance(before, nn.ConvTranspose2d)
            modules[-1] = fuse_conv_bn_eval(before, module, transpose=transposed)
        else:
            modules.append(module)
    whole = nn.Sequential(*modules).eval().requires_grad_(False)
    return whole.float().to(memory_format=torch.channels_last)


def _behind(plan: Plan, i: int, link: Link, after: Link | None, epsilons: Iterator[float]) -> list[nn.Module]:
    """Return what stands behind a layer: its normalization, its activation, the shaping into maps."""
    norm = [] if link.norm is None else [_norm(link, link.norm, next(epsilons))]
    if after is None:
        return norm
    function = plan.activations[i]
    activation = [] if function is None else [function]
    modules = [*activation, *norm] if plan.places[i].before_norm else [*norm, *activation]
    if after.side is None:
        return modules
    shaping = nn.Unflatten(1, (after.inputs, after.side, after.side))
    return [shaping, *modules] if _of_maps(link) else [*modules, shaping]


def _of_maps(link: Link) -> bool:
    """Say whether a layer's normalization is of maps: behind a kernel, or of what vectors are shaped to."""
    return link.norm is not None and (link.way != "linear" or link.norm.features != link.outputs)


def _norm(link: Link, norm: Layer, epsilon: float) -> nn.Module:
    kind = nn.BatchNorm2d if _of_maps(link) else nn.BatchNorm1d
    affine = "weight" in norm.tensors
    return norm.fill(kind(norm.features, eps=epsilon, affine=affine, device="meta"))


def _weights(link: Link, step: Step) -> nn.Module:
    inputs, outputs, bias = link.inputs, link.outputs, "bias" in link.layer.tensors
    stride, padding, extra = step
    module: nn.Module
    with torch.device("meta"):
        if link.way == "linear":
            module = nn.Linear(inputs, outputs, bias)
        elif link.way == "convolution":
            module = nn.Conv2d(inputs, outputs, link.kernel, stride, padding, bias=bias)
        else:
            module = nn.ConvTranspose2d(inputs, outputs, link.kernel, stride, padding, extra, bias=bias)
    return link.layer.fill(module)
