"""How the coordinates that a strategy searches become a prior's latents, and what keeps them plausible."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from ggl.base.errors import InputError
from ggl.base.registry import unknown_name
from ggl.generators import Prior

__all__ = ["LatentRule", "load_latents"]

Placement: TypeAlias = Callable[[Tensor], Tensor]
Penalty: TypeAlias = Callable[[Prior, Tensor, Tensor | None], Tensor]
"""Of a prior, its latents (n, d), and their images (n, c, h, w) where these were decoded already."""


@dataclass(frozen=True)
class LatentRule:
    """Placements applied in order to every candidate, then weighted penalties on where it came to lie."""

    name: str
    placements: tuple[Placement, ...] = ()
    penalties: tuple[tuple[float, Penalty], ...] = ()

    def place(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return the prior's latents of searched coordinates, differentiable in them."""
        for placement in self.placements:
            z = placement(z)
        return z

    def penalty(
        self,
        prior: Prior,
        z: Float[Tensor, "n d"],
        images: Float[Tensor, "n c h w"] | None = None,
    ) -> Float[Tensor, " n"]:
        """Return the weighted penalties of placed latents, 0 where the rule has none.

        `images` are what they decode to. A penalty on images decodes them itself where they are not given,
        which costs as much again and is refused by a class-conditional prior.
        """
        total = z.new_zeros(len(z))
        for weight, penalty in self.penalties:
            total = total + weight * penalty(prior, z, images)
        return total


def load_latents(specification: str) -> LatentRule:
    """Return the rule of "free", "shell:WEIGHT", "tanh", "box:BOUND" and others.

    Several are joined by "+".

    - `free`: latents as the strategy gives them.
    - `shell:WEIGHT`: adds WEIGHT times the prior's own `penalty` to the objective.
    - `ridge:WEIGHT`: adds WEIGHT times ‖z‖²: with the distance "l2" and noise of variance WEIGHT on every
      coordinate of the gradient, the maximum a posteriori under the prior's density (Bora et al.,
      arXiv 1703.03208, section 2).
    - `kld:WEIGHT`: adds WEIGHT times the divergence of the latent's empirical Gaussian from the standard
      one, -1/2 (1 + ln s² - m² - s²), m and s² the mean and variance of its entries, as in GGL's code.
    - `tv:WEIGHT`: adds WEIGHT times the decoded image's anisotropic total variation: the mean absolute
      difference of horizontal neighbors plus that of vertical ones (Inverting Gradients, arXiv 2003.14053,
      eq. 4), in pixels of [0, 1].
    - `tanh`: latents are the tanh of what is searched, as in GGL's code for ImageNet.
    - `box:BOUND`: coordinates are reflected at ±BOUND, so that nothing outside is ever decoded.

    Raises:
        UnknownNameError: a rule that is not known.
        InputError: a weight or bound that is missing or out of range.
    """
    placements: list[Placement] = []
    penalties: list[tuple[float, Penalty]] = []
    for part in specification.split("+"):
        name, _, text = part.partition(":")
        if name in ("free", "tanh"):
            if text:
                raise InputError(f"latents {part!r}: {name} takes no number")
            placements += [torch.tanh] if name == "tanh" else []
        elif name == "box":
            placements.append(_reflect_at(_positive(part, text)))
        elif name in PENALTIES:
            penalties.append((_positive(part, text), PENALTIES[name]))
        else:
            raise unknown_name("latents rule", name, ["free", *PENALTIES, "tanh", "box"])
    return LatentRule(specification, tuple(placements), tuple(penalties))


def _shell(prior: Prior, z: Tensor, images: Tensor | None) -> Tensor:  # noqa: ARG001
    return prior.penalty(z)


def _ridge(prior: Prior, z: Tensor, images: Tensor | None) -> Tensor:  # noqa: ARG001
    return z.square().sum(-1)


def _divergence(prior: Prior, z: Tensor, images: Tensor | None) -> Tensor:  # noqa: ARG001
    mean, variance = z.mean(-1), z.var(-1, correction=0).clamp_min(1e-10)
    return -0.5 * (1 + variance.log() - mean.square() - variance)


def _variation(prior: Prior, z: Tensor, images: Tensor | None) -> Tensor:
    pixels = prior.decode(z) if images is None else images
    return _mean_step(pixels, -1) + _mean_step(pixels, -2)


def _mean_step(images: Tensor, dim: int) -> Tensor:
    """Return each image's mean absolute difference of neighbors along a dimension, 0 of one pixel."""
    steps = images.diff(dim=dim).abs().flatten(1)
    return steps.sum(1) / max(1, steps.shape[1])


PENALTIES: dict[str, Penalty] = {"shell": _shell, "ridge": _ridge, "kld": _divergence, "tv": _variation}


def _reflect_at(bound: float) -> Placement:
    """Return the triangle wave of period 4 · bound, the identity within the box."""

    def reflect(z: Tensor) -> Tensor:
        folded = ((z - bound).remainder(4 * bound) - 2 * bound).abs() - bound
        return torch.where(z.abs() <= bound, z, folded)

    return reflect


def _positive(part: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InputError(f"latents {part!r}: expected a number above 0 after the colon")
    return value
