"""Norm clipping. Its attacker takes the observed norm, and clipping's own 1e-6, for the bound."""

import math

import torch

from ggl.base.errors import InputError
from ggl.defenses.base import Defense, number_text
from ggl.gradients import Clip, Gradients
from ggl.gradients.view import EPSILON, Step, global_norm

__all__ = ["Clipping", "LayerClipping"]


class Clipping(Defense):
    """Scales the whole gradient to an L2 norm of at most `bound` (GGL, section 4.1; bound 4 there)."""

    def __init__(self, bound: float) -> None:
        self.bound = _bound("clip", bound)
        self.name = f"clip:{number_text(bound)}"

    def protect(self, gradients: Gradients, generator: torch.Generator) -> Gradients:  # noqa: ARG002, D102
        return Clip(self.bound).apply(gradients)

    def steps(self, observed: Gradients, *, informed: bool) -> tuple[Step, ...]:  # noqa: D102
        return (Clip(self.bound if informed else float(global_norm(observed)) + EPSILON),)


class LayerClipping(Defense):
    """Scales every parameter's gradient to an L2 norm of at most `bound` (Fed-CDP, ICDCS 2021)."""

    def __init__(self, bound: float) -> None:
        self.bound = _bound("clip-layer", bound)
        self.name = f"clip-layer:{number_text(bound)}"

    def protect(self, gradients: Gradients, generator: torch.Generator) -> Gradients:  # noqa: ARG002, D102
        return Clip(dict.fromkeys(gradients, self.bound)).apply(gradients)

    def steps(self, observed: Gradients, *, informed: bool) -> tuple[Step, ...]:  # noqa: D102
        if informed:
            return (Clip(dict.fromkeys(observed, self.bound)),)
        return (Clip({name: float(g.norm()) + EPSILON for name, g in observed.items()}),)


def _bound(name: str, bound: float) -> float:
    if not (bound > 0 and math.isfinite(bound)):
        raise InputError(f"{name}: expected a bound above 0, found {bound:g}")
    return bound
