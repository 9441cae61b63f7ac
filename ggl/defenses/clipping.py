"""Norm clipping. Its attacker takes the observed norm, and clipping's own 1e-6, for the bound."""

import math

import torch
from torch import nn

from ggl.base.errors import InputError
from ggl.defenses.base import Defense, number_text
from ggl.gradients import Clip, Gradients, View
from ggl.gradients.view import EPSILON, global_norm

__all__ = ["Clipping", "LayerClipping"]


class Clipping(Defense):
    """Scales the whole gradient to an L2 norm of at most `bound` (GGL, section 4.1; bound 4 there)."""

    def __init__(self, bound: float) -> None:
        self.bound = _bound("clip", bound)
        self.name = f"clip:{number_text(bound)}"

    def protect(self, gradients: Gradients, generator: torch.Generator) -> Gradients:
        return Clip(self.bound).apply(gradients)

    def norm_after(self, before: float, layers: int) -> float:
        return min(before, self.bound)

    def adapt(self, observed: Gradients, attacker: str, model: nn.Module | None) -> View:
        bound = self.bound if attacker == "informed" else float(global_norm(observed)) + EPSILON
        return View(observed, (Clip(bound),))


class LayerClipping(Defense):
    """Scales every parameter's gradient to an L2 norm of at most `bound` (Fed-CDP, ICDCS 2021)."""

    def __init__(self, bound: float) -> None:
        self.bound = _bound("clip-layer", bound)
        self.name = f"clip-layer:{number_text(bound)}"

    def protect(self, gradients: Gradients, generator: torch.Generator) -> Gradients:
        return Clip(dict.fromkeys(gradients, self.bound)).apply(gradients)

    def norm_after(self, before: float, layers: int) -> float:
        return min(before, math.sqrt(layers) * self.bound)

    def adapt(self, observed: Gradients, attacker: str, model: nn.Module | None) -> View:
        if attacker == "informed":
            return View(observed, (Clip(dict.fromkeys(observed, self.bound)),))
        return View(observed, (Clip({name: float(g.norm()) + EPSILON for name, g in observed.items()}),))


def _bound(name: str, bound: float) -> float:
    if not (bound > 0 and math.isfinite(bound)):
        raise InputError(f"{name}: expected a bound above 0, found {bound:g}")
    return bound
