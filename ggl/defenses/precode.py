"""Defenses that make the victim sample: PRECODE and the convolutional bottleneck.

Sampling makes the gradients of the bottleneck and of every later layer stochastic, so that matching
them never converges. Their attackers: "naive" redraws the noise all the time and matches the
cross-entropy's gradient, as the defenses' own papers do; "matched" adds the penalty; "expectation" averages
4 draws that stay the same for a whole search; "ignore" is "matched" with the stochastic parameters left out.
CVB's published list of what to leave out keeps the σ encoder, whose gradient is a multiple of the noise: to
CVB "ignore" is that list, and "adaptive" leaves the σ encoder out too. To a linear bottleneck "adaptive" does
worse: the gradients of the μ encoder's weight and bias give away what it read, whatever was drawn.
"""

import math
from dataclasses import replace
from typing import ClassVar

import torch
from torch import nn

from ggl.base.errors import InputError
from ggl.base.registry import unknown_name
from ggl.defenses.base import ADAPTIVE, Defense, number_text, option_text
from ggl.defenses.bottleneck import ConvolutionalBottleneck, VariationalBottleneck, layers_holding, put_before
from ggl.defenses.stochastic import deviation_encoders, stochastic_names
from ggl.gradients import Gradients, Trial, View
from ggl.gradients.linear_input import LinearInput
from ggl.gradients.sampled import sampled_layers

__all__ = ["CVB", "BottleneckDefense", "LinearBottleneckDefense", "Precode"]

DRAWS = 4
"""Noise draws that an attacker averages."""

KEEPING = ("matched", "expectation")
"""Attackers who compare the stochastic parameters too."""

FEW_CHANNELS = 8
"""Below this width CVB's latent maps are as many, and otherwise half of the channels."""


class BottleneckDefense(Defense):
    """Puts a sampled layer into the victim; the gradient goes out as it is."""

    attackers: ClassVar[tuple[str, ...]] = (
        "naive",
        "matched",
        "expectation",
        "ignore",
        "adaptive",
        "informed",
    )

    def protect(self, gradients: Gradients, generator: torch.Generator) -> Gradients:
        return {name: g.clone() for name, g in gradients.items()}

    def adapt(self, observed: Gradients, attacker: str, model: nn.Module | None) -> View:
        """Return the observed gradient, for most attackers without its stochastic parameters.

        Raises:
            InputError: the stochastic parameters are wanted, and there is no wrapped victim to find them in.
        """
        if attacker in KEEPING:
            return View(observed)
        return View(observed, ignored=stochastic_names(self.wrapped(model)))

    def wrapped(self, model: nn.Module | None) -> nn.Module:
        """Return the victim that an attacker looks for layers in."""
        if model is None or not sampled_layers(model):
            found = "none" if model is None else f"a {type(model).__name__} without a bottleneck"
            raise InputError(
                f"defense {self.name}: expected the victim as wrap() returns it, for this attacker to find "
                f"the bottleneck in; found {found}"
            )
        return model

    def trial(self, attacker: str) -> Trial:
        if attacker == "naive":
            return Trial(redrawn=True, regularized=False)
        return Trial(draws=DRAWS) if attacker == "expectation" else Trial(redrawn=True)


class LinearBottleneckDefense(BottleneckDefense):
    """A bottleneck of linear layers: its μ encoder's gradient holds the representation that it read."""

    def adapt(self, observed: Gradients, attacker: str, model: nn.Module | None) -> View:
        """Return the view of the representation for those who adapt."""
        if attacker not in ADAPTIVE:
            return super().adapt(observed, attacker, model)
        layers = sampled_layers(self.wrapped(model)).items()
        name = next(name for name, layer in layers if isinstance(layer, VariationalBottleneck))
        layer = f"{name}.mean"
        ignored = observed.keys() - {f"{layer}.weight", f"{layer}.bias"}
        return View(observed, ignored=frozenset(ignored), both=(LinearInput(layer),), distance="l2")

    def trial(self, attacker: str) -> Trial:
        return Trial() if attacker in ADAPTIVE else super().trial(attacker)


class Precode(LinearBottleneckDefense):
    """Puts a variational bottleneck before the classifier (PRECODE, WACV 2022, arXiv 2108.04725).

    Args:
        size: numbers that the bottleneck samples.
        beta: factor of its divergence from N(0, I), in bits, in the loss.
        layer: the linear layer that it stands before; None for the last.
    """

    def __init__(self, size: int = 256, *, beta: float = 1e-3, layer: str | None = None) -> None:
        self.bottleneck_size = _count("precode", "size", size)
        self.beta, self.layer = _factor("precode", beta), layer
        self.name = f"precode:{size},beta={number_text(beta)}" + option_text("layer", layer)

    def wrap(self, victim: nn.Module, seed: int = 0) -> nn.Module:
        """Return a copy of the victim with the bottleneck.

        Raises:
            InputError: the victim has no linear layer, or none of that name.
        """
        return with_precode(victim, self.bottleneck_size, self.beta, self.layer, seed)


class CVB(BottleneckDefense):
    """Puts a convolutional bottleneck after the first block (CVB, arXiv 2309.04515).

    Without a `layer`, it stands before the stage `layer2` of a ResNet, and before the second convolution
    of any other victim. Give one where that convolution lies on one branch of a residual block: the other
    branch would carry what the bottleneck hides.

    Args:
        kernel: height and width of the encoders' kernels, odd (5 in CVB's CNN and ResNet-18).
        beta: factor of the divergence from N(0, I) in the loss (0.1 in CVB's CNN, 5e-5 in its ResNet-18).
        channels: latent maps; None for half of the input's, or 8 where those are fewer than 8.
        layer: a convolution, or a module whose first convolution reads the module's input.
    """

    def __init__(
        self, kernel: int = 5, *, beta: float = 0.1, channels: int | None = None, layer: str | None = None
    ) -> None:
        self.kernel, self.beta = _count("cvb", "kernel", kernel), _factor("cvb", beta)
        if not kernel % 2:
            raise InputError(f"cvb: expected an odd kernel, found {kernel}")
        self.channels = None if channels is None else _count("cvb", "channels", channels)
        self.layer = layer
        self.name = f"cvb:{kernel},beta={number_text(beta)}"
        self.name += option_text("channels", channels) + option_text("layer", layer)

    def adapt(self, observed: Gradients, attacker: str, model: nn.Module | None) -> View:
        """Return the view of the others; for "ignore" without what the authors' code lists.

        It lists the decoder and all later layers, and so compares both encoders.
        """
        view = super().adapt(observed, attacker, model)
        if attacker != "ignore":
            return view
        return replace(view, ignored=view.ignored - deviation_encoders(self.wrapped(model)))

    def wrap(self, victim: nn.Module, seed: int = 0) -> nn.Module:
        """Return a copy of the victim with the bottleneck.

        Raises:
            InputError: the victim has fewer than two convolutions, or no layer of that name has one.
        """
        layers = layers_holding(victim, nn.Conv2d)
        name = self._default(victim, layers) if self.layer is None else self.layer
        if name not in layers:
            raise unknown_name("convolutional layer", name, [known for known in layers if known])
        convolution = next(part for part in layers[name].modules() if isinstance(part, nn.Conv2d))
        width = convolution.in_channels
        latents = self.channels or (width // 2 if width >= FEW_CHANNELS else FEW_CHANNELS)
        return put_before(
            victim, name, lambda: ConvolutionalBottleneck(width, latents, self.kernel, self.beta), seed
        )

    def _default(self, victim: nn.Module, layers: dict[str, nn.Module]) -> str:
        if "layer2" in layers:
            return "layer2"
        convolutions = [name for name, module in layers.items() if isinstance(module, nn.Conv2d)]
        if len(convolutions) < 2:
            raise InputError(
                "cvb: expected a victim with at least two convolutions, such as lenet, found "
                f"{type(victim).__name__} with {len(convolutions)}; use precode"
            )
        return convolutions[1]


def with_precode(victim: nn.Module, size: int, beta: float, layer: str | None, seed: int) -> nn.Module:
    """Return a copy of the victim with a variational bottleneck before a linear layer, the last by default.

    Raises:
        InputError: the victim has no linear layer, or none of that name.
    """
    layers = {
        name: part for name, part in layers_holding(victim, nn.Linear).items() if isinstance(part, nn.Linear)
    }
    if not layers:
        raise InputError(f"precode: expected a victim with a linear layer, found {type(victim).__name__}")
    name = list(layers)[-1] if layer is None else layer
    if name not in layers:
        raise unknown_name("linear layer", name, list(layers))
    width = layers[name].in_features
    return put_before(victim, name, lambda: VariationalBottleneck(width, size, beta), seed)


def _count(defense: str, what: str, value: int) -> int:
    if value < 1:
        raise InputError(f"{defense}: expected {what} to be at least 1, found {value}")
    return value


def _factor(defense: str, beta: float) -> float:
    if not (beta >= 0 and math.isfinite(beta)):
        raise InputError(f"{defense}: expected beta to be at least 0, found {beta:g}")
    return beta
