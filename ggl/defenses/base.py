"""The contract of a defense: the client's half and the attacker's half."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import torch

from ggl.base.registry import unknown_name
from ggl.gradients import Gradients, View
from ggl.gradients.view import Mask, Step

__all__ = ["ATTACKERS", "Attacker", "Composed", "Defense", "NoDefense", "number_text"]

Attacker: TypeAlias = Literal["naive", "adaptive", "informed"]
"""What an attacker knows of the defense: nothing, its kind (parameters are estimated from the observed
gradient), or its kind and its parameters."""

ATTACKERS: tuple[Attacker, ...] = get_args(Attacker)


def find_attacker(name: str) -> Attacker:
    """Return the attacker of that name.

    Raises:
        UnknownNameError: there is none.
    """
    for attacker in ATTACKERS:
        if attacker == name:
            return attacker
    raise unknown_name("attacker", name, list(ATTACKERS))


class Defense(ABC):
    """A transformation of gradients; both halves are pure.

    A subclass sets `name`, in the form that loads it again ("prune:0.9"), and writes `protect`; one
    that an attacker can imitate also writes `steps`.
    """

    name: str

    @abstractmethod
    def protect(self, gradients: Gradients, generator: torch.Generator) -> Gradients:
        """Return what the client shares; every random draw comes from `generator`."""

    def steps(self, observed: Gradients, *, informed: bool) -> tuple[Step, ...]:  # noqa: ARG002
        """Return what an attacker who knows the defense does to a trial gradient.

        Parameters are estimated from `observed`, unless the attacker is `informed` of them.
        """
        return ()

    def view(self, observed: Gradients, attacker: Attacker = "adaptive") -> View:
        """Return the attacker's half for one observed gradient.

        Raises:
            UnknownNameError: an unknown attacker.
        """
        if find_attacker(attacker) == "naive":
            return View(observed)
        return View(observed, self.steps(observed, informed=attacker == "informed"))


def number_text(number: float) -> str:
    """Return the shortest text that reads as `number` again, without the "+" that joins defenses."""
    short = f"{number:g}"
    return (short if float(short) == number else repr(float(number))).replace("e+", "e")


class NoDefense(Defense):
    """Shares the gradient as it is."""

    name = "none"

    def protect(self, gradients: Gradients, generator: torch.Generator) -> Gradients:  # noqa: ARG002, D102
        return {name: g.clone() for name, g in gradients.items()}


class Composed(Defense):
    """Several defenses, applied in their order."""

    def __init__(self, parts: Sequence[Defense]) -> None:
        self.parts = tuple(parts)
        self.name = "+".join(part.name for part in self.parts)

    def protect(self, gradients: Gradients, generator: torch.Generator) -> Gradients:  # noqa: D102
        for part in self.parts:
            gradients = part.protect(gradients, generator)
        return gradients

    def steps(self, observed: Gradients, *, informed: bool) -> tuple[Step, ...]:
        """Return the parts' steps in order.

        Every mask is read off the same zeros, so that one stands for all; and since an estimated bound is
        the norm of what was left, an attacker who estimates masks before scaling, and scales every
        parameter before the whole.
        """
        steps = [step for part in self.parts for step in part.steps(observed, informed=informed)]
        masks = [step for step in steps if isinstance(step, Mask)]
        steps = [step for step in steps if not isinstance(step, Mask) or step is masks[-1]]
        if not informed:
            steps.sort(key=_breadth)
        return tuple(steps)


def _breadth(step: Step) -> int:
    """Return 0 for a mask, 1 for clipping by parameter, 2 for clipping the whole gradient."""
    if isinstance(step, Mask):
        return 0
    return 1 if isinstance(step.bound, Mapping) else 2
