"""The controls: what the same attack yields where nothing of the private image is left to find."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ggl.base.errors import InputError
from ggl.base.random import stream
from ggl.generators import Prior
from ggl.generators.base import check_decoded
from ggl.gradients import Gradients
from ggl.gradients.view import global_norm

__all__ = [
    "DECOYS",
    "Decoys",
    "choose_decoys",
    "class_means",
    "noise_gradient",
    "prior_samples",
]

DECOYS = 99
"""Same-class images beside each private one, at most."""


@dataclass(frozen=True)
class Decoys:
    """For each private image: other images of its class, and one of them to be attacked instead of it."""

    images: list[Float[Tensor, "m c h w"]]
    siblings: Float[Tensor, "n c h w"]


def choose_decoys(
    images: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    pool: Float[Tensor, "m c h w"],
    pool_labels: Int[Tensor, " m"],
    seed: int,
    batch: int = 1,
) -> Decoys:
    """Draw up to 99 decoys of each private image's class from a pool, and a sibling among them.

    The private image itself is no decoy; no private image is a sibling, and no two in one client's `batch`
    are the same.

    Raises:
        InputError: a class without an image to spare.
    """
    is_private = torch.stack([(pool == image).flatten(1).all(1) for image in images])
    chosen: list[Tensor] = []
    rows: list[int] = []
    for i, label in enumerate(labels):
        random = stream(seed, "decoys", i)
        others = ((pool_labels == label) & ~is_private[i]).nonzero()[:, 0]
        others = others[torch.randperm(len(others), generator=random)][:DECOYS]
        taken = torch.tensor(rows[i - i % batch :], dtype=torch.int64)
        spare = others[~(is_private.any(0)[others] | torch.isin(others, taken))]
        if len(spare) == 0:
            raise InputError(
                f"expected a decoy of class {int(label)} that is not private itself, found none; "
                "give more images of that class: in the data, or as decoys= from Python"
            )
        chosen.append(pool[others])
        rows.append(int(spare[0]))
    return Decoys(chosen, pool[rows])


def noise_gradient(like: Gradients, generator: torch.Generator) -> Gradients:
    """Return Gaussian noise of the same shapes and the same global norm."""
    noise = {
        name: torch.randn(g.shape, generator=generator, dtype=torch.float64).to(g) for name, g in like.items()
    }
    factor = global_norm(like) / global_norm(noise)
    return {name: g * factor for name, g in noise.items()}


@torch.no_grad()
def prior_samples(
    prior: Prior, labels: Int[Tensor, " n"], generator: torch.Generator, device: torch.device
) -> Float[Tensor, "n c h w"]:
    """Return a random image of the prior for each label."""
    z = prior.sample(len(labels), generator).to(device)
    images = prior.to(device).decode(z, labels.to(device))
    check_decoded(prior, images, len(z))
    return images.cpu()


def class_means(decoys: Sequence[Float[Tensor, "m c h w"]]) -> Float[Tensor, "n c h w"]:
    """Return each private image's mean decoy."""
    return torch.stack([images.mean(0) for images in decoys])
