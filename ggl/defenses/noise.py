"""Additive noise. Its attacker has nothing to estimate: the noise is as likely up as down."""

import math

import torch
from torch import Tensor

from ggl.base.errors import InputError
from ggl.defenses.base import Defense, number_text
from ggl.defenses.mechanism import Mechanism, Release, noise_on
from ggl.gradients import Gradients

__all__ = ["GaussianNoise", "LaplacianNoise"]


class GaussianNoise(Defense):
    """Adds N(0, std²) to every coordinate (GGL, arXiv 2203.15696, section 4.1)."""

    def __init__(self, std: float) -> None:
        self.std = _positive("noise", "standard deviation", std)
        self.name = f"noise:{number_text(std)}"

    def protect(self, gradients: Gradients, generator: torch.Generator) -> Gradients:
        return {name: g + self.std * _normal(g, generator) for name, g in gradients.items()}

    def mechanism(self, release: Release, before: float = math.inf) -> Mechanism | None:
        return noise_on(before, "gaussian", self.std)


class LaplacianNoise(Defense):
    """Adds Laplace(0, scale) to every coordinate (as in Soteria's code, arXiv 2012.06043)."""

    def __init__(self, scale: float) -> None:
        self.scale = _positive("laplace", "scale", scale)
        self.name = f"laplace:{number_text(scale)}"

    def protect(self, gradients: Gradients, generator: torch.Generator) -> Gradients:
        return {name: g + self.scale * _laplace(g, generator) for name, g in gradients.items()}

    def mechanism(self, release: Release, before: float = math.inf) -> Mechanism | None:
        return noise_on(before, "laplace", self.scale)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


def _laplace(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw by inversion: -sign(u) ln(1 - 2|u|) of u uniform on (-1/2, 1/2)."""
    u = torch.rand(like.shape, generator=generator, dtype=torch.float64) - 0.5
    return (-u.sign() * torch.log1p(-2 * u.abs().clamp(max=0.5 - 2**-54))).to(like)


def _positive(name: str, what: str, value: float) -> float:
    if not (value >= 0 and math.isfinite(value)):
        raise InputError(f"{name}: expected a {what} of at least 0, found {value:g}")
    return value
