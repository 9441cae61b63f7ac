"""The influence function with a prior: how near an attacker who owns a generator comes, without an attack.

The latent z ~ N(0, I) has, given what was shared, the posterior covariance Σ = (JᵀWJ + I)⁻¹ to first order
(Laplace's approximation), J being the derivative of F(z) = T(g(G(z))) at the private image's own inversion.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from ggl.attacks.inversion import invert
from ggl.base.counting import Count
from ggl.base.errors import InputError
from ggl.base.random import stream
from ggl.defenses import Defense
from ggl.generators import Prior
from ggl.gradients import GradientOracle
from ggl.i2f.perturbations import Draws, perturbations
from ggl.i2f.releases import Release, check_forecast, release_of
from ggl.i2f.surroundings import Surroundings, measure_surroundings

__all__ = ["CEILING_BUDGET", "Forecast", "forecasts", "information", "posterior_error", "psnr_of"]

CEILING_BUDGET = 1000
"""Evaluations of each inversion of a private image itself."""

ROUNDING = 1e-14
"""Least variance of a coordinate, of the mean square of its parameter's gradient: single precision's."""

TINY = 1e-300

LATENTS = 1000
"""Draws of a prior by which its latents are known for standard normal ones."""

TOLERANCE = 0.1
"""How far from 0 and 1 their mean and standard deviation may be."""

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Forecast:
    """How near an attacker with a prior is expected to come, under every draw of one defense.

    Attributes:
        prior: its name.
        ceiling: (n,), mean squared error of what the prior shows best: the image's own inversion.
        posterior: (n, draws), what the gradient leaves open within the prior, as a mean square over pixels:
            trace(J_G Σ J_Gᵀ) / pixels.
        unknown: (n,), the same without any gradient: Σ = I.
    """

    prior: str
    ceiling: Array
    posterior: Array
    unknown: Array

    @property
    def mse(self) -> Array:
        """The expected mean squared error over pixels, (n, draws): the posterior's and the ceiling's."""
        found: Array = self.posterior + self.ceiling[:, None]
        return found

    @property
    def rmse(self) -> Array:
        """The forecast: the root of `mse`, (n, draws)."""
        return np.sqrt(self.mse)

    @property
    def psnr(self) -> Array:
        """The forecast in dB, (n, draws)."""
        return psnr_of(self.mse)


def psnr_of(mse: Array) -> Array:
    """Return peak signal to noise ratios in dB, pixels being in [0, 1]; 120 at most."""
    found: Array = -10 * np.log10(mse.clip(1e-12))
    return found


def information(around: Surroundings, release: Release) -> Float64[Tensor, "d d"]:
    """Return JᵀWJ: what a shared gradient says of the latents, 1 being what the prior says.

    W = foretold / (noise² + misfit² + roughness²) by parameter, each the variance of one coordinate:
    generalized least squares. An attacker who compares directions does not see a gradient's scale, which is
    taken out as one more unknown: JᵀWJ - JᵀWF FᵀWJ / FᵀWF, by parameter where each was scaled on its own.
    """
    sizes = around.sizes.clamp_min(1)
    floor = ROUNDING * around.square / sizes
    model = (around.misfit + around.roughness) / sizes
    weights = around.foretold / (release.noise_to_scale.square() + model + floor).clamp_min(TINY)
    groups = torch.eye(len(weights)).double() if release.layered else torch.ones(1, len(weights)).double()
    along, squares = (groups * weights) @ around.along, (groups * weights) @ around.square
    seen = torch.einsum("p,pij->ij", weights, around.gram)
    found: Tensor = seen - along.T @ (along / squares.clamp_min(TINY)[:, None])
    return found


def posterior_error(around: Surroundings, release: Release) -> float:
    """Return trace(J_G Σ J_Gᵀ) / pixels with Σ = (JᵀWJ + I)⁻¹: what is left open within the prior."""
    found = information(around, release)
    values, basis = torch.linalg.eigh((found + found.T) / 2)
    moved = (basis * (around.spread @ basis)).sum(0)
    return float((moved / (1 + values.clamp_min(0))).sum())


def check_prior(prior: Prior, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]) -> None:
    """Raise `InputError` unless a prior's latents are standard normal and it has the images' shape."""
    if prior.is_noise:
        raise InputError(
            f"prior {prior.name}: a forecast without a generator is the influence function itself: leave the "
            "prior out"
        )
    if tuple(images.shape[1:]) != prior.image_shape:
        raise InputError(
            f"prior {prior.name}: expected images of its shape {prior.image_shape}, found "
            f"{tuple(images.shape[1:])}: bring them to it, by --fit on the command line"
        )
    prior.check_labels(labels)
    z = prior.sample(LATENTS, stream(0, "latents")).double()
    if abs(float(z.mean())) > TOLERANCE or abs(float(z.std()) - 1) > TOLERANCE:
        raise InputError(
            f"prior {prior.name}: expected standard normal latents, which a Gaussian posterior needs; found "
            f"a mean of {float(z.mean()):.2f} and a standard deviation of {float(z.std()):.2f}: take another"
        )


def forecasts(
    victim: nn.Module,
    images: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    defenses: Sequence[Defense],
    drawn: Draws,
    prior: Prior,
    *,
    ceiling_budget: int = CEILING_BUDGET,
    progress: Count,
) -> list[Forecast]:
    """Return the forecast of each defense; images are inverted once, and looked around once a mask.

    Raises:
        InputError: a defense or prior without such a forecast.
    """
    for defense in defenses:
        check_forecast(defense)
    check_prior(prior, images, labels)
    device = next(victim.parameters()).device
    inverted = invert(
        images.to(device, torch.float32),
        labels.to(device),
        prior=prior,
        budget=ceiling_budget,
        seed=drawn.seed,
        device=device,
        progress=lambda done, planned, _: progress("ceiling", done, planned),
    )
    oracle = GradientOracle(victim)
    shared = [perturbations(victim, images, labels, defense, drawn) for defense in defenses]
    n = len(images)
    posterior = np.zeros((len(defenses), n, drawn.count))
    ceiling, unknown = np.zeros(n), np.zeros(n)
    for i, found in enumerate(inverted):
        known: dict[bytes, Surroundings] = {}
        for k, defense in enumerate(defenses):
            for draw, done in enumerate(islice(shared[k], drawn.count)):
                release = release_of(defense, done, drawn.round / drawn.rounds)
                if release.key not in known:
                    known[release.key] = measure_surroundings(
                        oracle, prior, found.latents[0], images[i], labels[i], release.view
                    )
                posterior[k, i, draw] = posterior_error(known[release.key], release)
        around = next(iter(known.values()))
        ceiling[i], unknown[i] = around.ceiling, around.unknown
        progress("forecast", i + 1, n)
    return [Forecast(prior.name, ceiling, part, unknown) for part in posterior]
