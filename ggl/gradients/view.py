"""What an attacker compares: the observed gradient, and what is done to a trial gradient first."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from ggl.base.errors import InputError

__all__ = ["Clip", "Gradients", "Mask", "Step", "View", "clip_factor", "global_norm"]

Gradients: TypeAlias = dict[str, Tensor]
"""A gradient by parameter name, each tensor of its parameter's shape."""

EPSILON = 1e-6
"""Added to a norm before it divides a clipping bound, as the field's codes do."""


def global_norm(gradients: Mapping[str, Tensor]) -> Tensor:
    """Return the L2 norm of the whole gradient, a scalar."""
    return torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt()


def clip_factor(norm: Tensor, bound: float | Tensor) -> Tensor:
    """Return min(1, bound / (norm + 1e-6)), the factor of norm clipping."""
    return (bound / (norm + EPSILON)).clamp(max=1.0)


@dataclass(frozen=True)
class Mask:
    """Keep the coordinates where `keep` is true; a parameter that is not named is kept whole."""

    keep: Mapping[str, Tensor]

    def apply(self, gradients: Gradients) -> Gradients:
        """Return the masked gradient."""
        return {name: g * self.keep[name] if name in self.keep else g for name, g in gradients.items()}


@dataclass(frozen=True)
class Clip:
    """Scale to an L2 norm of at most `bound`: one for the whole gradient, or one a parameter."""

    bound: float | Mapping[str, float]

    def apply(self, gradients: Gradients) -> Gradients:
        """Return the clipped gradient."""
        if isinstance(self.bound, Mapping):
            return {name: g * clip_factor(g.norm(), self.bound[name]) for name, g in gradients.items()}
        factor = clip_factor(global_norm(gradients), self.bound)
        return {name: g * factor for name, g in gradients.items()}


Step: TypeAlias = Mask | Clip


@dataclass(frozen=True)
class View:
    """The observed gradient `target`, and the `steps` applied in order to a trial gradient.

    No steps is the naive attacker. At most one step may be a mask.
    """

    target: Gradients
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        if sum(isinstance(step, Mask) for step in self.steps) > 1:
            raise InputError("a view holds at most one mask; intersect the masks first")

    @property
    def mask(self) -> Mask | None:
        """The mask among the steps, if there is one."""
        return next((step for step in self.steps if isinstance(step, Mask)), None)

    @property
    def needs_whole_norm(self) -> bool:
        """Whether the norm of the unmasked trial gradient enters: no mask, or a clip before it."""
        return not self.steps or isinstance(self.steps[0], Clip)

    def apply(self, gradients: Gradients) -> Gradients:
        """Return what the attacker makes of a trial gradient."""
        for step in self.steps:
            gradients = step.apply(gradients)
        return gradients

    def to(self, device: torch.device, dtype: torch.dtype) -> "View":
        """Return the same view on another device, its target of another dtype."""
        steps = tuple(
            Mask({name: keep.to(device) for name, keep in step.keep.items()})
            if isinstance(step, Mask)
            else step
            for step in self.steps
        )
        return View({name: g.to(device, dtype) for name, g in self.target.items()}, steps)
