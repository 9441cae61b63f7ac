"""What an attacker compares: the observed gradient, and what is done to a trial gradient first."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
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
    """Return the L2 norm of the whole gradient, a scalar of float64, in which no float32 overflows."""
    squares = [gradient.double().square().sum() for gradient in gradients.values()]
    return torch.stack(squares).sum().sqrt()


def clip_factor(norm: Tensor, bound: float | Tensor) -> Tensor:
    """Return min(1, bound / (norm + 1e-6)), the factor of norm clipping."""
    return (bound / (norm + EPSILON)).clamp(max=1.0)


class Step(ABC):
    """Something that an attacker does to a trial gradient before it is compared; pure, and vmap-able.

    `Mask` and `Clip` cost nothing beside the scoring: norms and inner products are enough for them. For
    any other step the gradients are built, a few candidates at a time.
    """

    @abstractmethod
    def apply(self, gradients: Gradients) -> Gradients:
        """Return the changed gradient; differentiable, or with a stand-in for the derivative."""

    def to(self, device: torch.device) -> "Step":  # noqa: ARG002
        """Return the same step with its tensors on another device."""
        return self


@dataclass(frozen=True)
class Mask(Step):
    """Keep the coordinates where `keep` is true; a parameter that is not named is kept whole."""

    keep: Mapping[str, Tensor]

    def apply(self, gradients: Gradients) -> Gradients:
        """Return the masked gradient."""
        return {name: g * self.keep[name] if name in self.keep else g for name, g in gradients.items()}

    def to(self, device: torch.device) -> "Mask":
        """Return the same mask on another device."""
        return Mask({name: keep.to(device) for name, keep in self.keep.items()})


@dataclass(frozen=True)
class Clip(Step):
    """Scale to an L2 norm of at most `bound`: one for the whole gradient, or one a parameter."""

    bound: float | Mapping[str, float]

    @property
    def is_whole(self) -> bool:
        """Whether there is one bound for the whole gradient."""
        return not isinstance(self.bound, Mapping)

    def apply(self, gradients: Gradients) -> Gradients:
        """Return the clipped gradient."""
        if isinstance(self.bound, Mapping):
            return {
                name: g * clip_factor(global_norm({name: g}), self.bound[name]).to(g.dtype)
                for name, g in gradients.items()
            }
        factor = clip_factor(global_norm(gradients), self.bound)
        return {name: g * factor.to(g.dtype) for name, g in gradients.items()}


@dataclass(frozen=True)
class View:
    """The observed gradient `target`, and what an attacker makes of it and of trial gradients.

    No more than the target is the naive attacker.

    Attributes:
        target: the observed gradient.
        steps: applied in order to a trial gradient; at most one is a mask.
        ignored: parameters that are left out of the comparison, after the steps.
        both: applied after that, in order, to the trial gradient and to the target alike.
        distance: the one that this view is compared by, whatever the attack's; None for the attack's.
    """

    target: Gradients
    steps: tuple[Step, ...] = ()
    ignored: frozenset[str] = field(default=frozenset())
    both: tuple[Step, ...] = ()
    distance: str | None = None

    def __post_init__(self) -> None:
        if sum(isinstance(step, Mask) for step in self.steps) > 1:
            raise InputError("a view holds at most one mask; intersect the masks first")
        if not self.target.keys() - self.ignored:
            raise InputError("a view ignores every parameter: there is nothing left to compare")

    @property
    def mask(self) -> Mask | None:
        """The mask among the steps, if there is one."""
        return next((step for step in self.steps if isinstance(step, Mask)), None)

    @property
    def takes_moments(self) -> bool:
        """Whether norms and inner products are enough for the steps."""
        return not self.both and all(isinstance(step, Mask | Clip) for step in self.steps)

    @property
    def needs_ignored(self) -> bool:
        """Whether ignored parameters enter all the same: in a step on the whole gradient."""
        return not all(
            isinstance(step, Mask) or (isinstance(step, Clip) and not step.is_whole) for step in self.steps
        )

    @property
    def is_linear(self) -> bool:
        """Whether what is compared is linear in a trial gradient: masked, or parameters left out."""
        return not self.both and all(isinstance(step, Mask) for step in self.steps)

    @cached_property
    def goal(self) -> Gradients:
        """What the attacker compares of the target."""
        return self._compared(self.target)

    @cached_property
    def squares(self) -> dict[str, Tensor]:
        """The squared norms of the target, a scalar each."""
        return {name: g.square().sum() for name, g in self.target.items()}

    def apply(self, gradients: Gradients) -> Gradients:
        """Return what the attacker compares of a trial gradient."""
        for step in self.steps:
            gradients = step.apply(gradients)
        return self._compared(gradients)

    def _compared(self, gradients: Gradients) -> Gradients:
        gradients = {name: g for name, g in gradients.items() if name not in self.ignored}
        for step in self.both:
            gradients = step.apply(gradients)
        return gradients

    def to(self, device: torch.device, dtype: torch.dtype) -> "View":
        """Return the same view on another device, its target of another dtype; itself where it is there."""
        if not (self.steps or self.both) and all(
            g.device == device and g.dtype == dtype for g in self.target.values()
        ):
            return self
        target = {name: g.to(device, dtype) for name, g in self.target.items()}
        steps, both = (tuple(step.to(device) for step in part) for part in (self.steps, self.both))
        return replace(self, target=target, steps=steps, both=both)
