"""Magnitude pruning. Its attacker reads the mask off the zeros and compares what was left."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ggl.base.errors import InputError
from ggl.defenses.base import Defense, number_text
from ggl.gradients import Gradients, Mask, Step, View

__all__ = ["GlobalPruning", "LayerPruning", "mask_of_zeros", "smallest_zeroed"]


class LayerPruning(Defense):
    """Zeroes the `share` of smallest magnitudes in every parameter's gradient (as GGL and Soteria do).

    Exactly ⌊share · size⌋ coordinates of each tensor go, ties broken by position.
    """

    def __init__(self, share: float) -> None:
        self.pruned = _share("prune", share)
        self.name = f"prune:{number_text(share)}"

    def protect(self, gradients: Gradients, generator: torch.Generator) -> Gradients:
        return {name: smallest_zeroed(g.flatten(), self.pruned).view_as(g) for name, g in gradients.items()}

    def norm_after(self, before: float, layers: int) -> float:
        return before

    def adapt(self, observed: Gradients, attacker: str, model: nn.Module | None) -> View:
        return View(observed, mask_of_zeros(observed))


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
    count = int(share * len(values) + 1e-9)
    smallest = values.abs().argsort(stable=True)[:count]
    return values.index_fill(0, smallest, 0.0)


def _share(name: str, share: float) -> float:
    if not 0 <= share < 1:
        raise InputError(f"{name}: expected a share from 0 to below 1, found {share:g}")
    return share
