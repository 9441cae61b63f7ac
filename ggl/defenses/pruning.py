"""Magnitude pruning. Its attackers read the mask off the zeros, or prune their trials as GGL does."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ggl.base.errors import InputError
from ggl.defenses.base import ATTACKERS, Defense, number_text
from ggl.gradients import Gradients, Mask, Step, View

__all__ = ["GlobalPruning", "LayerPruning", "mask_of_zeros", "smallest_zeroed"]


class LayerPruning(Defense):
    """Zeroes the `share` of smallest magnitudes in every parameter's gradient (as GGL and Soteria do).

    Exactly ⌊share · size⌋ coordinates of each tensor go, ties broken by position.

    The attackers "adaptive" and "informed" read the mask off the zeros and compare what was left;
    "pruned-trial", GGL's own, prunes every trial gradient at the share of zeros that each observed tensor
    shows, so that a trial keeps other coordinates than the client did.
    """

    attackers: ClassVar[tuple[str, ...]] = (*ATTACKERS, "pruned-trial")

    def __init__(self, share: float) -> None:
        self.pruned = _share("prune", share)
        self.name = f"prune:{number_text(share)}"

    def protect(self, gradients: Gradients, generator: torch.Generator) -> Gradients:
        return {name: smallest_zeroed(g.flatten(), self.pruned).view_as(g) for name, g in gradients.items()}

    def norm_after(self, before: float, layers: int) -> float:
        return before

    def adapt(self, observed: Gradients, attacker: str, model: nn.Module | None) -> View:
        if attacker == "pruned-trial":
            zeros = {name: int((g == 0).sum()) for name, g in observed.items()}
            return View(observed, (Prune(zeros),))
        return View(observed, mask_of_zeros(observed))


@dataclass(frozen=True)
class Prune(Step):
    """Zero so many coordinates of least magnitude of every parameter's gradient, ties broken by position."""

    counts: Mapping[str, int]

    def apply(self, gradients: Gradients) -> Gradients:
        """Return the pruned gradient; of what is kept the derivative is 1."""
        return {
            name: _smallest_zeroed(g.flatten(), self.counts[name]).view_as(g) for name, g in gradients.items()
        }


class GlobalPruning(Defense):
    """Zeroes the `share` of smallest magnitudes of the whole gradient (as I²F does)."""

    def __init__(self, share: float) -> None:
        self.pruned = _share("prune-global", share)
        self.name = f"prune-global:{number_text(share)}"

    def protect(self, gradients: Gradients, generator: torch.Generator) -> Gradients:
        whole = smallest_zeroed(torch.cat([g.flatten() for g in gradients.values()]), self.pruned)
        parts = whole.split([g.numel() for g in gradients.values()])
        return {
            name: part.view_as(g).to(g.dtype)
            for part, (name, g) in zip(parts, gradients.items(), strict=True)
        }

    def norm_after(self, before: float, layers: int) -> float:
        return before

    def adapt(self, observed: Gradients, attacker: str, model: nn.Module | None) -> View:
        return View(observed, mask_of_zeros(observed))


def mask_of_zeros(observed: Gradients) -> tuple[Step, ...]:
    """Return a mask of the coordinates that are not zero, or nothing where none is zero."""
    keep = {name: g != 0 for name, g in observed.items()}
    holes = {name: mask for name, mask in keep.items() if not mask.all()}
    return (Mask(holes),) if holes else ()


def smallest_zeroed(values: Float[Tensor, " m"], share: float) -> Float[Tensor, " m"]:
    """Return the values with the ⌊share · m⌋ of least magnitude set to zero, ties broken by position."""
    return _smallest_zeroed(values, int(share * len(values) + 1e-9))


def _smallest_zeroed(values: Tensor, count: int) -> Tensor:
    smallest = values.abs().argsort(stable=True)[:count]
    return values.index_fill(0, smallest, 0.0)


def _share(name: str, share: float) -> float:
    if not 0 <= share < 1:
        raise InputError(f"{name}: expected a share from 0 to below 1, found {share:g}")
    return share
