"""The contract of a defense: the client's half and the attacker's half."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ggl.base.errors import InputError
from ggl.base.registry import unknown_name
from ggl.defenses.client import Client
from ggl.defenses.mechanism import Mechanism, Release
from ggl.gradients import Clip, Gradients, Mask, Step, Trial, View

__all__ = ["ADAPTIVE", "ATTACKERS", "Composed", "Defense", "NoDefense", "number_text", "option_text"]

ATTACKERS = ("naive", "adaptive", "informed")
"""What an attacker knows of the defense: nothing, its kind (parameters are estimated from the observed
gradient), or its kind and its parameters. A defense may be met by attackers of further names."""

ADAPTIVE = ("adaptive", "informed")

INDEX_BYTES, NUMBER_BYTES = 4, 4


class Defense:
    """What a client does to its gradient, and what an attacker makes of that; both halves are pure.

    A subclass sets `name`, in the form that loads it again ("prune:0.9"), and writes `protect`, or
    `share` where it needs more than the gradient. What an attacker can do about it goes into `adapt` and,
    for victims that sample, `trial`; `attackers` names whom these tell apart.

    Examples:
        >>> class Halve(ggl.Defense):
        ...     name = "halve"
        ...     def protect(self, gradients, generator):
        ...         return {name: g / 2 for name, g in gradients.items()}
        >>> Halve().protect({"weight": torch.ones(2)}, torch.Generator())
        {'weight': tensor([0.5000, 0.5000])}
    """

    name: str

    attackers: ClassVar[tuple[str, ...]] = ATTACKERS

    quantizes: ClassVar[bool] = False
    """Whether a zero may be a small number rounded: then an earlier defense's zeros can't be told."""

    def wrap(self, victim: nn.Module, seed: int = 0) -> nn.Module:
        """Return the victim that clients train: itself, or a copy with layers of the defense's own."""
        return victim

    def protect(self, gradients: Gradients, generator: torch.Generator) -> Gradients:
        """Return what is shared of a gradient; every random draw comes from `generator`.

        Raises:
            InputError: the defense needs the client, and so `share`.
        """
        raise InputError(f"defense {self.name} needs the victim and the batch: call share(client, generator)")

    def share(self, client: Client, generator: torch.Generator) -> Gradients:
        """Return what a client shares."""
        return self.protect(client.gradient(), generator)

    def adapt(
        self,
        observed: Gradients,
        attacker: str,
        model: nn.Module | None,
    ) -> View:
        """Return what an attacker who knows the defense compares: any but the naive one.

        Parameters are estimated from `observed`, unless the attacker is "informed" of them. `model` is
        the wrapped victim, None where the caller has none.
        """
        return View(observed)

    def trial(self, attacker: str) -> Trial:
        """Return how an attacker makes trial gradients on a victim that samples.

        A naive one redraws the noise all the time and knows no penalty, as the published attacks do.
        """
        return Trial(redrawn=True, regularized=False) if attacker == "naive" else Trial()

    def view(self, observed: Gradients, attacker: str = "adaptive", model: nn.Module | None = None) -> View:
        """Return the attacker's half for one observed gradient.

        Args:
            observed: what was shared.
            attacker: one of `attackers`.
            model: the victim as `wrap` left it; some attackers look for layers in it.

        Raises:
            UnknownNameError: an unknown attacker.
        """
        if attacker not in self.attackers:
            raise unknown_name("attacker", attacker, list(self.attackers))
        return View(observed) if attacker == "naive" else self.adapt(observed, attacker, model)

    def norm_after(self, before: float, layers: int) -> float:
        """Return the largest L2 norm of what is shared of `layers` tensors, of a norm of at most `before`.

        Infinite where none is known.
        """
        return math.inf

    def mechanism(self, release: Release, before: float = math.inf) -> Mechanism | None:
        """Return what is proved of one release, whatever the gradient of at most an L2 norm `before`.

        None where nothing is: no noise whose scale is independent of the data, or no bound on what it hides.
        """
        return None

    @property
    def is_postprocessing(self) -> bool:
        """Whether it sees nothing but the gradient, so that what was proved of that still holds."""
        return type(self).share is Defense.share

    def size(self, shared: Gradients) -> int:
        """Return the bytes that a shared gradient takes: every number, or the non-zero ones with indices."""
        total = sum(g.numel() for g in shared.values())
        kept = sum(int(g.count_nonzero()) for g in shared.values())
        sparse = kept * NUMBER_BYTES + min(kept * INDEX_BYTES, math.ceil(total / 8))
        return min(total * NUMBER_BYTES, sparse)


def number_text(number: float) -> str:
    """Return the shortest text that reads as `number` again, without the "+" that joins defenses."""
    short = f"{number:g}"
    return (short if float(short) == number else repr(float(number))).replace("e+", "e")


def option_text(name: str, value: object) -> str:
    """Return an option as it stands in a defense's name, nothing where it is None."""
    return "" if value is None else f",{name}={value}"


class NoDefense(Defense):
    """Shares the gradient as it is."""

    name = "none"

    def protect(self, gradients: Gradients, generator: torch.Generator) -> Gradients:
        return {name: g.clone() for name, g in gradients.items()}

    def norm_after(self, before: float, layers: int) -> float:
        return before


class Composed(Defense):
    """Several defenses, applied in their order.

    An attacker whom a part does not know is "adaptive" to it.
    """

    def __init__(self, parts: Sequence[Defense]) -> None:
        self.parts = tuple(parts)
        self.name = "+".join(part.name for part in self.parts)

    @property
    def attackers(self) -> tuple[str, ...]:  # type: ignore[override]
        """Every part's attackers."""
        return tuple(dict.fromkeys(attacker for part in self.parts for attacker in part.attackers))

    def wrap(self, victim: nn.Module, seed: int = 0) -> nn.Module:
        for part in self.parts:
            victim = part.wrap(victim, seed)
        return victim

    def protect(self, gradients: Gradients, generator: torch.Generator) -> Gradients:
        for part in self.parts:
            gradients = part.protect(gradients, generator)
        return gradients

    def share(self, client: Client, generator: torch.Generator) -> Gradients:
        for part in self.parts:
            client = client.after(part.share(client, generator))
        return client.gradient()

    def adapt(self, observed: Gradients, attacker: str, model: nn.Module | None) -> View:
        """Return the parts' steps in order, without what any of them ignores, by the last one's distance.

        Masks become one, of what all of them keep; one that was read off zeros says nothing where a later
        part rounds. Since an estimated bound is the norm of what was left, an attacker who estimates masks
        before scaling, and scales every parameter before the whole. Where the gradient was made orthogonal
        to the true one, nothing but that is left to compare.
        """
        views = [part.adapt(observed, _known(part, attacker), model) for part in self.parts]
        distances = [view.distance for view in views if view.distance is not None]
        if "orthogonal" in distances:
            return View(observed, distance="orthogonal")
        steps = [
            step
            for k, view in enumerate(views)
            for step in view.steps
            if not (isinstance(step, Mask) and any(part.quantizes for part in self.parts[k + 1 :]))
        ]
        steps = _with_one_mask(steps)
        if attacker != "informed" and all(isinstance(step, Mask | Clip) for step in steps):
            steps.sort(key=_breadth)
        ignored = frozenset().union(*(view.ignored for view in views))
        both = tuple(step for view in views for step in view.both)
        return View(observed, tuple(steps), ignored, both, distances[-1] if distances else None)

    def trial(self, attacker: str) -> Trial:
        usual = super().trial(attacker)
        wanted = [part.trial(_known(part, attacker)) for part in self.parts]
        return next((trial for trial in reversed(wanted) if trial != usual), usual)

    def norm_after(self, before: float, layers: int) -> float:
        for part in self.parts:
            before = part.norm_after(before, layers)
        return before

    def mechanism(self, release: Release, before: float = math.inf) -> Mechanism | None:
        """Return the first part's that has one, unless a later part is given more than its result."""
        for k, part in enumerate(self.parts):
            found = part.mechanism(release, before)
            if found is not None:
                return found if all(later.is_postprocessing for later in self.parts[k + 1 :]) else None
            before = part.norm_after(before, release.layers)
        return None

    @property
    def is_postprocessing(self) -> bool:
        return all(part.is_postprocessing for part in self.parts)

    def size(self, shared: Gradients) -> int:
        """Return the bytes in the form of the last part, after which the numbers are what they are."""
        return self.parts[-1].size(shared)


def _known(part: Defense, attacker: str) -> str:
    return attacker if attacker in part.attackers else "adaptive"


def _with_one_mask(steps: Sequence[Step]) -> list[Step]:
    """Return the steps with their masks joined to one, at the last one's place."""
    masks = [step for step in steps if isinstance(step, Mask)]
    if len(masks) < 2:
        return list(steps)
    keep: dict[str, Tensor] = {}
    for mask in masks:
        keep |= {name: keep[name] & kept if name in keep else kept for name, kept in mask.keep.items()}
    joined = [Mask(keep) if step is masks[-1] else step for step in steps]
    return [step for step in joined if not any(step is mask for mask in masks)]


def _breadth(step: Step) -> int:
    """Return 0 for a mask, 1 for clipping by parameter, 2 for clipping the whole gradient."""
    if not isinstance(step, Clip):
        return 0
    return 2 if step.is_whole else 1
