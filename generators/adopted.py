"""Anyone's generator as a prior: an object with `latent_dim`, `image_shape` and `decode` is enough."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ggl.base.errors import InputError
from ggl.generators.base import Prior

__all__ = ["adopt"]

NEEDED = ("latent_dim", "image_shape", "decode")
OPTIONAL = {"licence": str, "num_classes": int, "latents": str, "heldout": str}


def adopt(found: object, name: str) -> Prior:
    """Return `found` if it is a `Prior`, else a prior that asks it.

    Args:
        found: has `latent_dim` (int), `image_shape` (c, h, w) and `decode(z, labels)`, which returns
            images in [0, 1]; whatever else it has of a `Prior` is used too (`sample`, `penalty`,
            `num_classes`, `licence`, `latents`, `heldout`). It follows the device where it is a module.
        name: the specification it was found by.

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
        self.name = name
        try:
            self.latent_dim = int(found.latent_dim)
            channels, height, width = (int(length) for length in found.image_shape)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"prior {name!r}: expected latent_dim as a number and image_shape as three, found "
                f"{found.latent_dim!r} and {found.image_shape!r}"
            ) from error
        self.image_shape = (channels, height, width)
        for part, kind in OPTIONAL.items():
            if isinstance(getattr(found, part, None), kind):
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
