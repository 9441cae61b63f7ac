"""The embedded prior's network: a class-conditional DCGAN generator and its discriminator."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrizations import spectral_norm

__all__ = ["Discriminator", "Generator"]

START = 4
"""Height and width in pixels of the first feature map; each later one doubles it."""


class Generator(nn.Module):
    """A DCGAN generator (arXiv 1511.06434), conditioned by the first layer's normalization.

    `widths` are the channels of the feature maps from 4 px up to the image's size. The class scales
    and shifts the 4 px map (conditional batch normalization, arXiv 1610.07629); the layers above
    see the class through it alone, so that their normalization folds into the weights.
    """

    def __init__(self, latent_dim: int, num_classes: int, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.project = nn.Linear(latent_dim, widths[0] * START**2, bias=False)
        self.project_norm = nn.BatchNorm2d(widths[0], affine=False)
        self.class_affine = nn.Embedding(num_classes, 2 * widths[0])
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(below, above, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(above),
                nn.ReLU(inplace=True),
            )
            for below, above in pairwise(widths)
        )
        self.to_image = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(
        self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"]
    ) -> Float[Tensor, "n channels height width"]:
        """Return images in [-1, 1]."""
        return self.finish(self.begin(z, labels, 1), labels, 1)

    def begin(
        self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"], stage: int
    ) -> Float[Tensor, "n c side side"]:
        """Return the maps of `START` · 2^(stage - 1) px, `stage` from 1 to the number of widths."""
        scale, shift = self.class_affine(labels)[:, :, None, None].chunk(2, dim=1)
        maps = self.project_norm(self.project(z).unflatten(1, (-1, START, START)))
        x: Tensor = F.relu_(maps * (1 + scale) + shift)
        for block in self.blocks[: stage - 1]:
            x = block(x)
        return x

    def finish(
        self,
        x: Float[Tensor, "n c side side"],
        labels: Int[Tensor, " n"],  # noqa: ARG002
        stage: int,
    ) -> Float[Tensor, "n channels height width"]:
        """Return the images of a stage's maps, in [-1, 1]; the class is in them already."""
        for block in self.blocks[stage - 1 :]:
            x = block(x)
        return torch.tanh(self.to_image(x))

    def fold(self) -> None:
        """Put each block's normalization into its convolution; same images, less time."""
        blocks: list[Any] = [list(block.children()) for block in self.blocks]
        self.blocks = nn.ModuleList(
            nn.Sequential(fuse_conv_bn_eval(convolution, norm, transpose=True), relu)
            for convolution, norm, relu in blocks
        )


class Discriminator(nn.Module):
    """A spectrally normalized projection discriminator (arXiv 1802.05957, 1802.05637)."""

    def __init__(self, num_classes: int, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for below, above in pairwise([channels, *widths]):
            layers += [spectral_norm(nn.Conv2d(below, above, 4, stride=2, padding=1)), nn.LeakyReLU(0.1)]
        layers += [spectral_norm(nn.Conv2d(widths[-1], widths[-1], 3, padding=1)), nn.LeakyReLU(0.1)]
        self.features = nn.Sequential(*layers)
        self.classes = spectral_norm(nn.Embedding(num_classes, widths[-1]))
        self.output = spectral_norm(nn.Linear(widths[-1], 1))

    def forward(
        self, images: Float[Tensor, "n channels height width"], labels: Int[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """Return a score per image, high for real ones of that class."""
        features = self.features(images).sum((2, 3))
        score: Tensor = self.output(features)[:, 0] + (features * self.classes(labels)).sum(1)
        return score
