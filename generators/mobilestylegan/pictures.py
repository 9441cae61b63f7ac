"""Pictures of the whole network, in parts that a killed run continues: what an early exit is fitted to."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ggl.base.random import stream
from ggl.base.weights import load_tensors, save_tensors
from ggl.generators.mobilestylegan.prior import MobileStyleGAN

__all__ = ["PART", "PICTURE_SIZE", "draw_part", "styles_of_part"]

PART = 50
"""Pictures of a part."""
PICTURE_SIZE = 128
"""Height and width in pixels of stored pictures, area means of the 1024 px image."""


def styles_of_part(prior: MobileStyleGAN, seed: int, part: int) -> Float[Tensor, "n 512"]:
    """Return the styles of a part: of an even one mapped latents, of an odd one Gaussian styles.

    An attack in "z" meets the former, one in "w" the latter.

    Args:
        prior: of space "w", not truncated.
        seed: of all parts.
        part: from 0.
    """
    z = torch.randn(PART, prior.latent_dim, generator=stream(seed, "pictures", part))
    styles: Tensor = prior.mapping(z) if part % 2 == 0 else prior.styles(z)
    return styles


@torch.no_grad()
def draw_part(prior: MobileStyleGAN, folder: Path, seed: int, part: int) -> Float[Tensor, "n 3 128 128"]:
    """Return a part's pictures in [0, 1], from `folder` if they are there, else drawn and kept there."""
    path = folder / f"pictures-{seed}-{part:04d}.safetensors"
    if not path.exists():
        styles = styles_of_part(prior, seed, part)
        reduced = [
            F.adaptive_avg_pool2d((prior.synthesis(style) / 2 + 0.5).clamp(0, 1), PICTURE_SIZE)
            for style in styles.split(1)
        ]
        save_tensors(path, {"pictures": torch.cat(reduced).half()})
    return load_tensors(path)["pictures"].float()
