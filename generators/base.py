"""The contract of a prior: a generator of images, searched in standard-normal coordinates."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ggl.base.errors import InputError

__all__ = ["Prior", "check_decoded"]


class Prior(nn.Module, ABC):
    """A distribution over images that an attacker owns.

    A strategy searches the latent coordinates of `sample`; everything that turns them into an image
    (truncation, tanh, W space, resizing) happens in `decode`. A subclass sets the four attributes
    and writes `decode`; coordinates that are not standard normal also need `sample` and `penalty`.

    Examples:
        >>> class Grey(ggl.Prior):
        ...     name, licence = "grey", "MIT"
        ...     latent_dim, image_shape = 1, (1, 32, 32)
        ...     def decode(self, z, labels=None):
        ...         return torch.sigmoid(z)[:, :, None, None].expand(-1, *self.image_shape)
        >>> prior = Grey()
        >>> prior.decode(prior.sample(2, torch.Generator())).shape
        torch.Size([2, 1, 32, 32])
    """

    name: str
    licence: str
    latent_dim: int
    image_shape: tuple[int, int, int]
    num_classes: int | None = None
    latents: str = "shell:0.001"
    """How searched coordinates become latents, as `ggl.attacks.latents.load_latents` reads it."""
    assumed: tuple[str, ...] = ()
    """What its file does not say and nobody said, a phrase each: `ggl check-prior` and audits repeat it."""
    doubts: tuple[str, ...] = ()
    """What loading found implausible of it, a sentence each."""
    is_noise: bool = False
    """Whether its images are meant to be noise, so that nobody warns of it."""
    heldout: str | None = None
    """Name of a data set of the prior's domain that it never saw; an audit takes its decoys there."""

    @abstractmethod
    def decode(
        self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n channels height width"]:
        """Return the images of latents `z`, in [0, 1], differentiable in `z`.

        `labels` (n,) in [0, num_classes) are needed by a class-conditional prior and ignored by
        an unconditional one.
        """

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Draw `n` latents of the prior, float32 on the generator's device."""
        return torch.randn(n, self.latent_dim, generator=generator, device=generator.device)

    def penalty(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Return how implausible each latent is: the squared distance from the Gaussian shell.

        (‖z‖² - d)² / 2d - 1, the norm penalty of GGL (arXiv 2203.15696, section 3.3) scaled so that
        a standard normal latent has mean 0 in every dimension d.
        """
        d = z.shape[-1]
        return (z.square().sum(-1) - d).square() / (2 * d) - 1

    def check_labels(self, labels: Int[Tensor, " n"] | None) -> None:
        """Raise `InputError` unless `labels` suit this prior.

        Those on a GPU are left to the look-up there, which refuses them too: reading them would halt it.
        """
        if self.num_classes is None:
            return
        if labels is None:
            raise InputError(f"prior {self.name} is class-conditional: expected labels, found none")
        if labels.is_cuda:
            return
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            found = int(labels.max()) if int(labels.max()) >= self.num_classes else int(labels.min())
            raise InputError(f"prior {self.name} has the labels 0 to {self.num_classes - 1}, found {found}")


def check_decoded(prior: Prior, images: object, n: int) -> None:
    """Raise `InputError` unless a prior decoded n latents to images of its shape."""
    expected = (n, *prior.image_shape)
    if not isinstance(images, Tensor) or tuple(images.shape) != expected:
        found = f"shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"prior {prior.name}: expected decode to return images {expected}, found {found}")
