"""PRECODE with partial perturbation: what sampling leaves deterministic is noised or pruned."""

import torch
from torch import nn

from ggl.base.errors import InputError
from ggl.defenses.base import Defense, number_text, option_text
from ggl.defenses.client import Client
from ggl.defenses.noise import GaussianNoise
from ggl.defenses.precode import LinearBottleneckDefense, Precode
from ggl.defenses.pruning import LayerPruning
from ggl.defenses.stochastic import mean_encoders, stochastic_names
from ggl.gradients import Gradients

__all__ = ["PPP"]


class PPP(LinearBottleneckDefense):
    """PRECODE, and noise on or pruning of the gradients before its bottleneck (PPP, arXiv 2208.04767).

    The stochastic parameters go out untouched. Give one of `noise` and `prune`.

    Args:
        noise: standard deviation of the Gaussian noise.
        prune: share of smallest magnitudes that is zeroed in every parameter.
        size: numbers that the bottleneck samples.
        beta: factor of its divergence in the loss.
        layer: the linear layer that the bottleneck stands before; None for the last.
        mu: whether the bottleneck's μ encoder, whose gradient is nearly deterministic, is perturbed too.
    """

    def __init__(
        self,
        *,
        noise: float | None = None,
        prune: float | None = None,
        size: int = 256,
        beta: float = 1e-3,
        layer: str | None = None,
        mu: bool = True,
    ) -> None:
        self.perturbation = _perturbation(noise, prune)
        self.precode, self.mu = Precode(size, beta=beta, layer=layer), mu
        how = f"noise={number_text(noise)}" if noise is not None else f"prune={number_text(prune or 0.0)}"
        self.name = f"ppp:{how},size={size},beta={number_text(beta)}"
        self.name += option_text("layer", layer) + ("" if mu else ",mu=0")

    def wrap(self, victim: nn.Module, seed: int = 0) -> nn.Module:
        """Return a copy of the victim with PRECODE's bottleneck."""
        return self.precode.wrap(victim, seed)

    def protect(self, gradients: Gradients, generator: torch.Generator) -> Gradients:
        """Raise `InputError`: without the victim nobody knows which parameters are deterministic."""
        return Defense.protect(self, gradients, generator)

    def share(self, client: Client, generator: torch.Generator) -> Gradients:
        """Return the gradient, the perturbation on its deterministic part alone.

        Raises:
            InputError: the client's victim is not as `wrap` returns it.
        """
        channels, height, width = client.images.shape[1:]
        stochastic = stochastic_names(client.model, (channels, height, width))
        gradient = client.gradient()
        chosen = self._perturbed(gradient, stochastic, client.model)
        changed = self.perturbation.protect(chosen, generator)
        return {name: changed[name] if name in changed else g.clone() for name, g in gradient.items()}

    def _perturbed(self, gradient: Gradients, stochastic: frozenset[str], model: nn.Module) -> Gradients:
        """Return the part of a gradient that is perturbed."""
        untouched = stochastic if self.mu else stochastic | mean_encoders(model)
        return {name: g for name, g in gradient.items() if name not in untouched}


def _perturbation(noise: float | None, prune: float | None) -> GaussianNoise | LayerPruning:
    if noise is not None and prune is None:
        return GaussianNoise(noise)
    if prune is not None and noise is None:
        return LayerPruning(prune)
    found = "neither" if noise is None else "both"
    raise InputError(
        f"ppp: expected one of noise and prune, found {found}; such as ppp:noise=0.1 or ppp:prune=0.9"
    )
