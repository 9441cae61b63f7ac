"""What a defense shares, where a forecast has a form for it: scaled, masked, with noise of known size."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ggl.base.errors import InputError
from ggl.defenses import Defense, NoDefense
from ggl.defenses.base import Composed
from ggl.defenses.clipping import Clipping, LayerClipping
from ggl.defenses.noise import GaussianNoise, LaplacianNoise
from ggl.defenses.privacy import PrivateDefense
from ggl.defenses.pruning import GlobalPruning, LayerPruning, mask_of_zeros
from ggl.defenses.soteria import Soteria
from ggl.defenses.top_k import TopK
from ggl.gradients import View
from ggl.gradients.view import clip_factor
from ggl.i2f.perturbations import Perturbation

__all__ = ["Release", "check_forecast", "release_of"]

MASKS = (LayerPruning, GlobalPruning, TopK, Soteria)

NOISES = (GaussianNoise, LaplacianNoise, PrivateDefense)

FORMS = (NoDefense, Clipping, LayerClipping, *NOISES, *MASKS)
"""Defenses of the form that `Release` says. Signs and QSGD's levels have no Jacobian, a gradient orthogonal
to the true one no size of noise, and Outpost draws by chance whether it defends at all."""


@dataclass(frozen=True)
class Release:
    """A gradient as it is shared: keep ∘ (scale · g + noise), by parameter.

    Attributes:
        view: keep ∘ g, and the mask that zeros tell.
        noise_to_scale: (p,), the noise's standard deviation over the parameter's scale.
        layered: whether parameters were scaled one by one, so that no two of them can be compared in size.
    """

    view: View
    noise_to_scale: Tensor
    layered: bool

    @property
    def key(self) -> bytes:
        """What two releases of one gradient share that keep the same coordinates."""
        mask = self.view.mask
        if mask is None:
            return b""
        return b"".join(name.encode() + keep.cpu().numpy().tobytes() for name, keep in mask.keep.items())


def check_forecast(defense: Defense) -> None:
    """Raise `InputError` where what a defense shares is not `Release`'s: scaled, noised, at last masked."""
    parts = _parts(defense)
    for part in parts:
        if not isinstance(part, FORMS):
            raise InputError(
                f"defense {part.name}: expected, for a forecast with a prior, one that scales, masks or adds "
                "noise (noise, laplace, clip, dp-sgd, prune, top-k, soteria and the like): leave it out, or "
                "the prior"
            )
    masked = False
    for part in parts:
        if masked and isinstance(part, NOISES):
            raise InputError(
                f"defense {defense.name}: expected, for a forecast with a prior, masks after noise, which "
                "would fill their zeros; put the noise first, or leave out the prior"
            )
        masked |= isinstance(part, MASKS)


def release_of(defense: Defense, done: Perturbation, progress: float) -> Release:
    """Return what a defense made of one image's gradient, with the sizes that it is known to have.

    Clipping by a norm is taken to divide by the expected one, √(‖scale · g‖² + Σ std²); a mask is what one
    draw left, and noise before it is taken to be as large where it was kept as elsewhere.

    Args:
        defense: what protects.
        done: what it did.
        progress: how much of training is done, from 0 to below 1.

    Raises:
        InputError: as `check_forecast`.
    """
    check_forecast(defense)
    gradient = done.gradient
    keep = {name: torch.ones_like(g, dtype=torch.bool) for name, g in gradient.items()}
    scale, variance = torch.ones(len(gradient), dtype=torch.float64), torch.zeros(len(gradient)).double()
    mask, layered = None, False
    for part in _parts(defense):
        squares = torch.stack(
            [(g.double() * keep[name]).square().sum() for name, g in gradient.items()]
        ).cpu()
        sizes = torch.tensor([int(kept.sum()) for kept in keep.values()])
        norms = (scale.square() * squares + sizes * variance).sqrt()
        factor, added = _effect(part, norms, progress)
        layered |= isinstance(part, LayerClipping | PrivateDefense) and not bool((factor == factor[0]).all())
        scale, variance = factor * scale, factor.square() * variance + added
        if isinstance(part, MASKS):
            mask = View(done.shared, mask_of_zeros(done.shared)).mask
            keep |= {} if mask is None else mask.keep
    kept = {name: g * keep[name] for name, g in gradient.items()}
    steps = () if mask is None else (mask,)
    return Release(View(kept, steps), variance.sqrt() / scale, layered)


def _parts(defense: Defense) -> Sequence[Defense]:
    return defense.parts if isinstance(defense, Composed) else (defense,)


def _effect(part: Defense, norms: Tensor, progress: float) -> tuple[Tensor, Tensor]:
    """Return by what a defense multiplies parameters of these norms, and the variance that it adds."""
    one, nothing = torch.ones_like(norms), torch.zeros_like(norms)
    if isinstance(part, Clipping):
        return clip_factor(norms.norm(), part.bound) * one, nothing
    if isinstance(part, LayerClipping):
        return clip_factor(norms, part.bound), nothing
    if isinstance(part, GaussianNoise):
        return one, nothing + part.std**2
    if isinstance(part, LaplacianNoise):
        return one, nothing + 2 * part.scale**2
    if isinstance(part, PrivateDefense):
        factors, bounds = part.clipping(norms[None], progress)
        return factors[0], (part.noise_multiplier(progress) * bounds).square()
    return one, nothing
