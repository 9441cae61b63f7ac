"""Magnitude pruning. Its attacker reads the mask off the zeros and compares what was left."""

import torch
from torch import Tensor

from ggl.base.errors import InputError
from ggl.defenses.base import Defense, number_text
from ggl.gradients import Gradients, Mask
from ggl.gradients.view import Step

__all__ = ["GlobalPruning", "LayerPruning"]


class LayerPruning(Defense):
    """Zeroes the `share` of smallest magnitudes in every parameter's gradient (as GGL and Soteria do).

    Exactly ⌊share · size⌋ coordinates of each tensor go, ties broken by position.
    """

    def __init__(self, share: float) -> None:
        self.share = _share("prune", share)
        self.name = f"prune:{number_text(share)}"

    def protect(self, gradients: Gradients, generator: torch.Generator) -> Gradients:  # noqa: ARG002, D102
        return {name: _pruned(g.flatten(), self.share).view_as(g) for name, g in gradients.items()}

    def steps(self, observed: Gradients, *, informed: bool) -> tuple[Step, ...]:  # noqa: ARG002, D102
        return mask_of_zeros(observed)


class GlobalPruning(Defense):
    """Zeroes the `share` of smallest magnitudes of the whole gradient (as I²F does)."""

    def __init__(self, share: float) -> None:
        self.share = _share("prune-global", share)
        self.name = f"prune-global:{number_text(share)}"

    def protect(self, gradients: Gradients, generator: torch.Generator) -> Gradients:  # noqa: ARG002, D102
        whole = _pruned(torch.cat([g.flatten() for g in gradients.values()]), self.share)
        parts = whole.split([g.numel() for g in gradients.values()])
        return {
            name: part.view_as(g).to(g.dtype)
            for part, (name, g) in zip(parts, gradients.items(), strict=True)
        }

    def steps(self, observed: Gradients, *, informed: bool) -> tuple[Step, ...]:  # noqa: ARG002, D102
        return mask_of_zeros(observed)


def mask_of_zeros(observed: Gradients) -> tuple[Step, ...]:
    """Return a mask of the coordinates that are not zero, or nothing where none is zero."""
    keep = {name: g != 0 for name, g in observed.items()}
    holes = {name: mask for name, mask in keep.items() if not mask.all()}
    return (Mask(holes),) if holes else ()


def _pruned(values: Tensor, share: float) -> Tensor:
    count = int(share * len(values) + 1e-9)
    smallest = values.abs().argsort(stable=True)[:count]
    return values.index_fill(0, smallest, 0.0)


def _share(name: str, share: float) -> float:
    if not 0 <= share < 1:
        raise InputError(f"{name}: expected a share from 0 to below 1, found {share:g}")
    return share
