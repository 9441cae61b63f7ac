"""Anyone's generator as a prior: an object with `latent_dim`, `image_shape` and `decode` is enough."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ggl.base.errors import InputError
from ggl.generators.base import Prior

__all__ = ["adopt"]

NEEDED = ("latent_dim", "image_shape", "decode")
OPTIONAL = ("licence", "num_classes", "latents", "heldout")


def adopt(found: object, name: str) -> Prior:
    """Return `found` if it is a `Prior`, else a prior that asks it.

    Args:
        found: has `latent_dim` (int), `image_shape` (c, h, w) and `decode(z, labels)`, which returns
            images in [0, 1]; whatever else it has of a `Prior` is used too (`sample`, `penalty`,
            `num_classes`, `licence`, `latents`, `heldout`).
        name: what the prior is called in reports.

    Raises:
        InputError: something needed is missing.
    """
    if isinstance(found, Prior):
        return found
    missing = [part for part in NEEDED if not hasattr(found, part)]
    if missing:
        raise InputError(
            f"prior {name!r}: expected a ggl.Prior, or latent_dim, image_shape and decode(z, labels); "
            f"found {type(found).__name__} without {', '.join(missing)}"
        )
    return _Adopted(found, name)


class _Adopted(Prior):
    """A prior over an object of somebody else's."""

    licence = "not stated"

    def __init__(self, found: Any, name: str) -> None:
        super().__init__()
        self.name = str(getattr(found, "name", name))
        self.latent_dim = int(found.latent_dim)
        self.image_shape = tuple(found.image_shape)
        for part in OPTIONAL:
            if hasattr(found, part):
                setattr(self, part, getattr(found, part))
        if isinstance(found, nn.Module):
            found.requires_grad_(False)
        self.found = found

    def decode(
        self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n channels height width"]:
        self.check_labels(labels)
        images: Tensor = self.found.decode(z, labels)
        return images

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        if not hasattr(self.found, "sample"):
            return super().sample(n, generator)
        z: Tensor = self.found.sample(n, generator)
        return z

    def penalty(self, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        if not hasattr(self.found, "penalty"):
            return super().penalty(z)
        penalty: Tensor = self.found.penalty(z)
        return penalty
