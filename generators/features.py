"""A generator entered after a stage: what is searched are activations, in standard-normal coordinates."""

import re
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ggl.base.errors import InputError
from ggl.base.options import specification
from ggl.base.random import stream
from ggl.generators.base import Prior
from ggl.generators.principal import principal_directions
from ggl.generators.stages import StagedPrior

__all__ = ["AROUND", "DIMS", "FEATURES", "Features"]

FEATURES = "features"
"""The space; upon another space of the prior's it is "w/features"."""

DIMS = 128
"""Directions of the activations that are searched, unless the caller asks for others."""

AROUND = 0.25
"""Of deviations from what latents make, where later layers read latents too."""

OF_A_DIRECTION, OF_A_CLASS, FRESH = 8, 16, 256
"""Samples behind each direction and each class's mean, and others by which is measured what these hold."""

CHUNK = 32

LARGEST = 2 * 2**30
"""Bytes of the samples' activations, the directions and the means together."""


class Features(Prior):
    """A staged prior whose activations after a stage are searched, on their principal directions.

    a = m + B u: u is standard normal, the rows of B are d principal directions of the activations of the
    prior's own samples times their standard deviations, m is the samples' mean, of each class its own.
    Where layers behind the stage read latents too (styles, conditions), or `around` is given, coordinates
    are (z, u), and a = f(z) + `around` · B u, f(z) being what the prior makes of the latent: with u = 0 it
    is the prior.

    Behind the shell penalty, u is drawn back, radially, into the least l1 ball that holds every sample behind
    B, a backstop that few searches meet. So GIFD (arXiv 2308.04699) confines features to l1 balls, whose
    radius is measured here.

    Directions come from n samples, 8 a direction and 16 a class at least, by the eigenvectors of an n x n
    matrix: n² times the stage's size multiplications. How much of the variance of other samples they hold
    is said in `assumed`.

    Args:
        prior: names its stages.
        stage: counted from 1, the coarsest.
        dims: d; None takes 128, or the stage's size where that is less.
        around: the size of deviations from what latents make, as a share of those of the prior's own
            activations; None takes 0.25 where later layers read latents, else searches no latents.

    Raises:
        InputError: the prior names no stages, it has no such stage, or what is asked for does not fit.

    >>> from ggl import load_prior
    >>> Features(load_prior("fashion-dcgan32"), 2, dims=32).name
    'fashion-dcgan32:space=features,stage=2,dims=32'
    """

    means: Tensor
    directions: Tensor

    def __init__(
        self, prior: Prior, stage: int | None, *, dims: int | None = None, around: float | None = None
    ) -> None:
        super().__init__()
        prior, stage = _checked(prior, stage)
        if around is not None and not 0 < around <= 1:
            raise InputError(f"prior {prior.name}: expected around above 0, at most 1, found {around:g}")
        self.name = _name(prior.name, {"stage": stage, "dims": dims, "around": around})
        self.licence, self.image_shape, self.num_classes = prior.licence, prior.image_shape, prior.num_classes
        self.latents, self.doubts = prior.latents, prior.doubts
        self.is_noise, self.heldout = prior.is_noise, prior.heldout
        self.prior, self.stage = prior, stage
        self.around = AROUND if around is None and prior.reads_latents else around
        d = min(DIMS, prior.stages[stage - 1].size) if dims is None else dims
        self.z_dim = 0 if self.around is None else prior.latent_dim
        self.latent_dim = self.z_dim + d
        classes = (prior.num_classes or 1) if self.around is None else 1
        n = max(OF_A_DIRECTION * d, OF_A_CLASS * classes)
        _check_size(prior, stage, d, n, classes)
        means, directions, self.radius = self._fitted(n, d, classes)
        self.register_buffer("means", means)
        self.register_buffer("directions", directions)
        self.assumed = (*prior.assumed, self._described())

    def decode(
        self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n channels height width"]:
        """Return the images of coordinates, in [0, 1]: of u alone, or of latents and u behind them."""
        self.check_labels(labels)
        latents, u = z[:, : self.z_dim], z[:, self.z_dim :]
        u = u * (self.radius / u.abs().sum(1, keepdim=True).clamp_min(self.radius))
        deviation = u @ self.directions
        if self.around is not None:
            a = self.prior.features(latents, labels, self.stage) + self.around * deviation
        elif labels is None or self.num_classes is None:
            a = self.means + deviation
        else:
            a = self.means[labels] + deviation
        return self.prior.finish(a, latents, labels, self.stage)

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Draw latents of the prior, where they are searched, and standard normal u."""
        u = torch.randn(n, self.latent_dim - self.z_dim, generator=generator, device=generator.device)
        return torch.cat((self.prior.sample(n, generator), u), dim=1) if self.z_dim else u

    def penalty(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Return the squared distance of u from its shell, and the prior's own penalty of latents."""
        shell = super().penalty(z[:, self.z_dim :])
        return shell + self.prior.penalty(z[:, : self.z_dim]) if self.z_dim else shell

    def _samples(self, n: int, name: str) -> Iterator[tuple[Float[Tensor, "m size"], Int[Tensor, " m"]]]:
        """Yield activations of samples of a stream, a few at a time, and the class of each, 0 without."""
        z, classes = self.prior.sample(n, stream(0, name)), torch.arange(n) % (self.num_classes or 1)
        for few, of_class in zip(z.split(CHUNK), classes.split(CHUNK), strict=True):
            labels = None if self.num_classes is None else of_class
            yield self.prior.features(few, labels, self.stage), of_class

    @torch.no_grad()
    def _fitted(self, n: int, d: int, groups: int) -> tuple[Tensor, Tensor, float]:
        """Return the means of samples' classes, their d directions, and their largest l1 norm."""
        a, classes = torch.empty(n, self.prior.stages[self.stage - 1].size), torch.arange(n) % groups
        for i, (some, _) in enumerate(self._samples(n, "features")):
            a[i * CHUNK : i * CHUNK + len(some)] = some
        means = torch.zeros(groups, a.shape[1]).index_add_(0, classes, a)
        means /= classes.bincount(minlength=groups)[:, None]
        for some, of_class in zip(a.split(CHUNK), classes.split(CHUNK), strict=True):
            some -= means[of_class]
        directions, u = principal_directions(a, d, n - groups)
        return means, directions, float(u.abs().sum(1).max())

    @torch.no_grad()
    def _described(self) -> str:
        """Return what the directions are, and how much of other samples' variance they hold."""
        lengths, held, whole = self.directions.norm(dim=1).clamp_min(1e-30), 0.0, 0.0
        for a, classes in self._samples(FRESH, "fresh features"):
            off = a - self.means[classes % len(self.means)]
            held += float((off @ self.directions.T / lengths).square().sum())
            whole += float(off.square().sum())
        stage = f"stage {self.stage} of {len(self.prior.stages)} ({self.prior.stages[self.stage - 1].name})"
        share = f"hold {held / whole:.0%} of other samples' variance"
        found = f"{len(lengths)} directions after {stage}, which {share}"
        return found if self.around is None else f"{found}, times {self.around:g} around what latents make"


def _checked(prior: Prior, stage: int | None) -> tuple[StagedPrior, int]:
    """Return a prior that names its stages, and which one.

    Raises:
        InputError: it names none, or not this one.
    """
    if not isinstance(prior, StagedPrior) or not prior.stages:
        raise InputError(
            f"prior {prior.name}: space=features needs a network that names its stages, as those of "
            "bundled, dcgan, wgan-gp, biggan-deep, stylegan2 and mobilestylegan priors do; leave it out"
        )
    if stage is None or not 1 <= stage <= len(prior.stages):
        named = ", ".join(f"{k} ({found.name})" for k, found in enumerate(prior.stages, 1))
        found = "none" if stage is None else stage
        raise InputError(f"prior {prior.name}: expected stage= as one of {named}; found {found}")
    return prior, stage


def _check_size(prior: StagedPrior, stage: int, d: int, n: int, classes: int) -> None:
    """Raise `InputError` where d directions are more than the stage has, or do not fit."""
    size = prior.stages[stage - 1].size
    if not 1 <= d <= size:
        raise InputError(f"prior {prior.name}: expected dims of 1 to {size:,} at stage {stage}, found {d:,}")
    taken = 4 * size * (n + 2 * d + classes) + 24 * n * n
    if taken > LARGEST:
        raise InputError(
            f"prior {prior.name}: {d:,} directions of stage {stage} ({prior.stages[stage - 1].name}) take "
            f"{taken / 2**30:.1f} GB for {n:,} samples, expected at most {LARGEST / 2**30:g}; take fewer "
            "dims=, or a coarser stage"
        )


def _name(name: str, options: dict[str, object]) -> str:
    """Return a prior's name with features upon the space that it names, or alone, and the options."""
    upon = re.search(r"(?<=[:,]space=)[^,]+", name)
    if upon is None:
        return specification(name, {"space": FEATURES, **options})
    return specification(f"{name[: upon.end()]}/{FEATURES}{name[upon.end() :]}", options)
