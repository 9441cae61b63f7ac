"""Layers that sample on every forward pass, and the helper that puts one before a victim's layer."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ggl.base.errors import InputError
from ggl.base.random import global_stream, stream_seed
from ggl.base.registry import unknown_name
from ggl.gradients import Sampled

__all__ = [
    "Before",
    "Bottleneck",
    "ConvolutionalBottleneck",
    "VariationalBottleneck",
    "divergence",
    "layers_holding",
    "put_before",
]

BOUND = 5.0
"""What a convolutional bottleneck clips to before the softplus."""


class Bottleneck(Sampled, ABC):
    """Encodes to a normal distribution, draws from it in train and eval mode alike, and decodes the draw.

    The two encoders, `mean` and `deviation`, are layers of their own: the same function as one layer of
    twice the width, but an attacker can treat their gradients apart.

    Attributes:
        mean: encoder of μ.
        deviation: encoder of what becomes σ.
        decoder: back to the input's width.
        beta: factor of the penalty.
    """

    def __init__(self, mean: nn.Module, deviation: nn.Module, decoder: nn.Module, beta: float) -> None:
        super().__init__()
        self.mean, self.deviation, self.decoder, self.beta = mean, deviation, decoder, beta

    @abstractmethod
    def spread(self, encoded: Tensor) -> Tensor:
        """Return σ > 0 of what the deviation encoder gave."""

    @abstractmethod
    def penalty(self, mean: Tensor, deviation: Tensor) -> Float[Tensor, " n"]:
        """Return the divergence from the standard normal distribution, one number an image."""

    def forward(self, x: Float[Tensor, "n *shape"]) -> Float[Tensor, "n *shape"]:
        """Return the decoded draw z = μ + ε ⊙ σ, ε ~ N(0, I)."""
        mean, deviation = self.mean(x), self.spread(self.deviation(x))
        self.keep_penalty(self.beta * self.penalty(mean, deviation))
        decoded: Tensor = self.decoder(mean + self.noise(mean) * deviation)
        return decoded


class VariationalBottleneck(Bottleneck):
    """PRECODE's: linear encoders to `size` numbers, σ by softplus, and a linear decoder.

    Scheliga et al., PRECODE (WACV 2022, arXiv 2108.04725). An input whose last dimension is not `width`
    is flattened first; tokens (n, t, width) are encoded one by one.
    """

    def __init__(self, width: int, size: int, beta: float) -> None:
        super().__init__(nn.Linear(width, size), nn.Linear(width, size), nn.Linear(size, width), beta)
        self.width = width

    def spread(self, encoded: Tensor) -> Tensor:
        """Return softplus(encoded)."""
        return F.softplus(encoded)

    def penalty(self, mean: Tensor, deviation: Tensor) -> Float[Tensor, " n"]:
        """Return the divergence in bits, as PRECODE's code does."""
        return divergence(mean, deviation).flatten(1).sum(1) / math.log(2)

    def forward(self, x: Float[Tensor, "n *shape"]) -> Float[Tensor, "n *shape"]:
        """Return the decoded draw, of the input's shape."""
        rows = x if x.shape[-1] == self.width else x.flatten(1)
        return super().forward(rows).view(x.shape)


class ConvolutionalBottleneck(Bottleneck):
    """CVB's: `kernel` × `kernel` encoders to `latents` maps of the input's height and width, 1 × 1 decoder.

    Scheliga et al. (arXiv 2309.04515); no layer has a bias, σ = softplus(clip(·, -5, 5)). Their code puts
    the softplus into the divergence as a log-variance and draws with it as σ; here it is σ in both.
    """

    def __init__(self, channels: int, latents: int, kernel: int, beta: float) -> None:
        def encoder() -> nn.Conv2d:
            return nn.Conv2d(channels, latents, kernel, padding=kernel // 2, bias=False)

        super().__init__(encoder(), encoder(), nn.Conv2d(latents, channels, 1, bias=False), beta)

    def spread(self, encoded: Tensor) -> Tensor:
        """Return softplus(clip(encoded, -5, 5)), from 0.0067 to 5.0067."""
        return F.softplus(encoded.clamp(-BOUND, BOUND))

    def penalty(self, mean: Tensor, deviation: Tensor) -> Float[Tensor, " n"]:
        """Return the divergence in nats, summed over the maps and averaged over positions, as CVB's code."""
        return divergence(mean, deviation).sum(1).mean((1, 2))

    def forward(self, x: Float[Tensor, "n *shape"]) -> Float[Tensor, "n *shape"]:
        """Return the decoded draw, (n, c, h, w) as the input.

        Raises:
            InputError: the input is no map.
        """
        if x.dim() != 4:
            raise InputError(
                "cvb: expected activations (n, channels, height, width) at the bottleneck, found shape "
                f"{tuple(x.shape)}; choose another layer"
            )
        return super().forward(x)


class Before(nn.Module):
    """A bottleneck and then the layer that it was put before."""

    def __init__(self, bottleneck: Bottleneck, layer: nn.Module) -> None:
        super().__init__()
        self.bottleneck, self.layer = bottleneck, layer

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output on what the bottleneck made of x."""
        output: Tensor = self.layer(self.bottleneck(x))
        return output


def divergence(mean: Tensor, deviation: Tensor) -> Tensor:
    """Return KL(N(μ, σ²) ‖ N(0, 1)) = (μ² + σ² - 1) / 2 - log σ in nats, of every element."""
    # A softplus that underflows to 0 would make the loss infinite.
    logarithm = deviation.clamp_min(torch.finfo(deviation.dtype).tiny).log()
    return 0.5 * (mean.square() + deviation.square() - 1) - logarithm


def layers_holding(victim: nn.Module, kind: type[nn.Module]) -> dict[str, nn.Module]:
    """Return, by name and in order, the modules that are or hold a layer of `kind`; bottlenecks left out."""
    inside = tuple(f"{name}." for name, module in victim.named_modules() if isinstance(module, Sampled))
    return {
        name: module
        for name, module in victim.named_modules()
        if not f"{name}.".startswith(inside) and any(isinstance(part, kind) for part in module.modules())
    }


def put_before(victim: nn.Module, name: str, build: Callable[[], Bottleneck], seed: int) -> nn.Module:
    """Return a copy of the victim whose layer `name` is `Before(build(), layer)`; "" is the whole victim.

    The bottleneck is initialized from `seed`, and takes the layer's device, dtype and mode.

    Raises:
        InputError: there is no such layer.
    """
    copied = copy.deepcopy(victim)
    layers = dict(copied.named_modules())
    if name not in layers:
        raise unknown_name("layer", name, list(layers))
    layer = layers[name]
    with global_stream(stream_seed(seed, "bottleneck")), torch.device("cpu"):
        bottleneck = build()
    before = Before(bottleneck.to(next(layer.parameters())).train(layer.training), layer)
    before.training = layer.training
    if not name:
        return before
    parent, _, child = name.rpartition(".")
    setattr(copied.get_submodule(parent), child, before)
    return copied
