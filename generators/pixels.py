"""No generator at all: the latents are the pixels, for the attacks that own no prior."""

import re

from jaxtyping import Float, Int
from torch import Tensor

from ggl.base.errors import InputError
from ggl.generators.base import Prior

__all__ = ["Pixels"]

GRAY, SCALE = 0.5, 0.25
"""Mean and standard deviation of a pixel: z = (x - 0.5) / 0.25, about as data sets are normalized."""

SHAPE = re.compile(r"([13])x([1-9]\d{0,3})x([1-9]\d{0,3})", re.ASCII)


class Pixels(Prior):
    """Images whose pixels are independent, 0.5 + z / 4, cut to [0, 1]; no weights.

    What DLG, iDLG and Inverting Gradients search (`ggl.attacks.pixel_attacks`). The gradient is zero where
    a pixel is cut, so that coordinates are reflected at ±2, black and white, unless another rule is named.

    Args:
        shape: "CxHxW": 1 or 3 channels, height and width in pixels, up to 9999.

    Raises:
        InputError: another shape.
    """

    licence = "MIT (no weights)"
    latents = "box:2"
    is_noise = True

    def __init__(self, shape: str) -> None:
        super().__init__()
        found = SHAPE.fullmatch(shape)
        if found is None:
            raise InputError(
                f"prior 'pixels:{shape}': expected CxHxW with 1 or 3 channels, as in pixels:1x32x32; "
                f"found {shape!r}"
            )
        channels, height, width = (int(length) for length in found.groups())
        self.name, self.image_shape = f"pixels:{shape}", (channels, height, width)
        self.latent_dim = channels * height * width

    def decode(
        self,
        z: Float[Tensor, "n d"],
        labels: Int[Tensor, " n"] | None = None,  # noqa: ARG002
    ) -> Float[Tensor, "n channels height width"]:
        """Return the pixels, (n, c, h, w); `labels` are ignored."""
        images: Tensor = (GRAY + SCALE * z).clamp(0, 1).unflatten(1, self.image_shape)
        return images
