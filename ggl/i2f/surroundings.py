"""How a client's gradient moves with the latents around a private image's own inversion, by differences."""

from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from ggl.generators import Prior
from ggl.generators.base import check_decoded
from ggl.gradients import GradientOracle, Trial, View
from ggl.gradients.residuals import GradientResiduals

__all__ = ["STEP", "Surroundings", "measure_surroundings"]

STEP = 0.3
"""Length of a difference, in standard deviations of a latent: about as far as a search may end from z*.
Behind ReLUs shorter ones differ by jumps alone."""


@dataclass(frozen=True)
class Surroundings:
    """Of F(z) = T(g(G(z))) and G around a latent z*, by parameter where there is a (p,) in front.

    With J_l a parameter's derivative in the latents:

    Attributes:
        gram: (p, d, d), J_lᵀ J_l.
        along: (p, d), J_lᵀ F_l.
        square: (p,), ‖F_l‖².
        misfit: (p,), ‖T(g(x)) - F(z*)‖² of the private image x: what the prior's nearest image leaves.
        roughness: (p,), squared error of one difference, mean over directions: 0 where F is linear.
        foretold: (p,), share of J_lᵀ J_l's trace that is no such error, at least `LEAST`.
        sizes: (p,), coordinates that T keeps.
        spread: (d, d), J_G J_Gᵀ / pixels of the generator's derivative J_G: a step u moves pixels by uᵀ S u
            in the mean square.
        ceiling: mean squared error of G(z*).
        latent: (d,), z*.
    """

    gram: Float64[Tensor, "p d d"]
    along: Float64[Tensor, "p d"]
    square: Float64[Tensor, " p"]
    misfit: Float64[Tensor, " p"]
    roughness: Float64[Tensor, " p"]
    foretold: Float64[Tensor, " p"]
    sizes: Float64[Tensor, " p"]
    spread: Float64[Tensor, "d d"]
    ceiling: float
    latent: Float64[Tensor, " d"]

    @property
    def unknown(self) -> float:
        """trace(J_G J_Gᵀ) / pixels: the prior's variance around z*, that of Σ = I."""
        return float(self.spread.trace())


TINY = 1e-300

LEAST = 1e-3
"""No parameter's derivative is trusted less."""

Layer: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.no_grad()
def measure_surroundings(
    oracle: GradientOracle,
    prior: Prior,
    latent: Float[Tensor, " d"],
    image: Float[Tensor, "c h w"],
    label: Int[Tensor, ""],
    view: View,
    step: float = STEP,
) -> Surroundings:
    """Return the surroundings of a latent by d central differences, 2d + 1 evaluations of the gradient.

    A gradient of more than 65,536 coordinates is seen through its sketch (`ggl.gradients.sketch`), whose
    inner products are unbiased: of a large victim no d by parameters matrix is ever held. Gradients are of
    the victim's precision, inner products of double.

    Forth less back is a column of J; their sum, 0 where F is linear, is as large as that column's error.

    Args:
        oracle: of the victim.
        prior: an attacker's.
        latent: z*, a latent of the prior.
        image: the private image.
        label: its class.
        view: what is observed of the image's own gradient, without noise, and the mask if there is one.
        step: of the differences.
    """
    d = len(latent)
    moves = step * torch.eye(d, dtype=latent.dtype, device=latent.device)
    latents = torch.cat([latent[None], latent + moves, latent - moves])
    labels = label.expand(len(latents)).to(latent.device)
    images = oracle.chunks.map(len(latents), 1, lambda rows: prior.decode(latents[rows], labels[rows]))
    check_decoded(prior, images, len(latents))
    view = oracle.prepare(view)
    residuals = GradientResiduals(oracle, [view], "l2", Trial())
    values = residuals.measure(images[:, None], labels[:, None], [0], [len(latents)])[1][:, 0].cpu().double()
    goal, groups = residuals.targets[0].cpu().double(), residuals.sketch.groups
    layers = [_layer(*part, step) for part in zip(values.split(groups, 1), goal.split(groups), strict=True)]
    gram, along, square, misfit, roughness, foretold = (
        torch.stack(part) for part in zip(*layers, strict=True)
    )
    here, forth, back = images.cpu().flatten(1).split([1, d, d])
    moved = (forth - back).double() / (2 * step)
    return Surroundings(
        gram,
        along,
        square,
        misfit,
        roughness,
        foretold,
        _sizes(view),
        moved @ moved.T / moved.shape[1],
        float((here[0].double() - image.cpu().double().flatten()).square().mean()),
        latent.cpu().double(),
    )


def _layer(values: Float64[Tensor, "n m"], goal: Float64[Tensor, " m"], step: float) -> Layer:
    """Return one parameter's part of the first six attributes, of the values at z*, forth, and back."""
    here, (forth, back) = values[0], values[1:].chunk(2)
    jacobian, errors = (forth - back) / (2 * step), (forth + back - 2 * here).square().sum(1)
    gram = jacobian @ jacobian.T
    error = errors.sum() / (2 * step) ** 2 / gram.trace().clamp_min(TINY)
    misfit = (goal - here).square().sum()
    return gram, jacobian @ here, here @ here, misfit, errors.mean() / 2, (1 - error).clamp(LEAST, 1)


def _sizes(view: View) -> Float64[Tensor, " p"]:
    keep = {} if view.mask is None else view.mask.keep
    sizes = [int(keep[name].sum()) if name in keep else g.numel() for name, g in view.goal.items()]
    return torch.tensor(sizes, dtype=torch.float64)
