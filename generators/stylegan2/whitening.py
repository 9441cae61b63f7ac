"""Standard-normal coordinates of the style space W."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ggl.generators.stylegan2.mapping import MappingNetwork
from ggl.generators.whitening import whitening_of

__all__ = ["Whitening"]

SAMPLES = 20_000
"""Mapped latents, per class, behind a mean and a covariance."""

SEED = 20191203
CHUNK = 2_000


class Whitening(nn.Module):
    """w = m + Σ^½ u: u has mean 0 and covariance 1 where w has the mean m and the covariance Σ of W.

    One m and Σ per class where there are classes.
    """

    mean: Tensor
    root: Tensor

    def __init__(self, mapping: MappingNetwork, samples: int = SAMPLES) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(SEED)
        z = torch.randn(samples, mapping.z_dim, generator=generator)
        labels = [None] if mapping.num_classes is None else list(range(mapping.num_classes))
        moments = [whitening_of(_styles(mapping, z, label)) for label in labels]
        self.register_buffer("mean", torch.stack([mean for mean, _ in moments]).float())
        self.register_buffer("root", torch.stack([root for _, root in moments]).float())

    def forward(
        self, u: Float[Tensor, "n w"], labels: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n w"]:
        """Return the style vectors of whitened coordinates; `labels` where there are classes."""
        if len(self.mean) == 1 or labels is None:
            return self.mean + u @ self.root[0]
        return self.mean[labels] + torch.einsum("ni,nij->nj", u, self.root[labels])


@torch.no_grad()
def _styles(
    mapping: MappingNetwork, z: Float[Tensor, "samples z"], label: int | None
) -> Float[Tensor, "samples w"]:
    """Return the style vectors of `z` in one class."""
    chunks = []
    for part in z.split(CHUNK):
        labels = None if label is None else torch.full((len(part),), label)
        chunks.append(mapping(part, labels))
    return torch.cat(chunks)
