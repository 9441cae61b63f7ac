"""The color prior's networks: a residual generator, and what only its training needs.

An encoder, and a discriminator that reads the frozen features of a classifier beside the pixels.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrizations import spectral_norm

from ggl.generators.bundled.network import START

__all__ = ["Encoder", "FeatureDiscriminator", "ResidualGenerator"]


class _ClassAffine(nn.Module):
    """Scales and shifts channels by class (conditional batch normalization, arXiv 1610.07629)."""

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_classes, 2 * channels)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, x: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        scale, shift = self.table(labels)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, x, 1 + scale)


class _Conditioned(nn.Module):
    """A convolution, its normalization, the class's scale and shift, a ReLU."""

    def __init__(self, convolution: nn.Conv2d | nn.ConvTranspose2d, num_classes: int) -> None:
        super().__init__()
        self.convolution: Any = convolution
        self.norm: Any = nn.BatchNorm2d(convolution.out_channels, affine=False)
        self.affine = _ClassAffine(num_classes, convolution.out_channels)

    def forward(self, x: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n d i j"]:
        return F.relu_(self.affine(self.norm(self.convolution(x)), labels))

    def fold(self) -> None:
        """Put the normalization into the convolution."""
        transposed = isinstance(self.convolution, nn.ConvTranspose2d)
        self.convolution = fuse_conv_bn_eval(self.convolution, self.norm, transpose=transposed)
        self.norm = nn.Identity()


class ResidualGenerator(nn.Module):
    """A DCGAN generator (arXiv 1511.06434) whose every layer sees the class, deeper at 8 and 16 px.

    `widths` are the channels of the feature maps from 4 px up to the image's size; the maps between
    have a residual convolution each.
    """

    def __init__(self, latent_dim: int, num_classes: int, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.project = nn.Linear(latent_dim, widths[0] * START**2, bias=False)
        self.project_norm = nn.BatchNorm2d(widths[0], affine=False)
        self.project_affine = _ClassAffine(num_classes, widths[0])
        self.grow = nn.ModuleList(
            _Conditioned(nn.ConvTranspose2d(below, above, 4, stride=2, padding=1, bias=False), num_classes)
            for below, above in pairwise(widths)
        )
        self.residuals = nn.ModuleList(
            _Conditioned(nn.Conv2d(width, width, 3, padding=1, bias=False), num_classes)
            for width in widths[1:-1]
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
        x = self.project_norm(self.project(z).unflatten(1, (-1, START, START)))
        x = F.relu_(self.project_affine(x, labels)).contiguous(memory_format=torch.channels_last)
        return self._grown(x, labels, range(stage - 1))

    def finish(
        self, x: Float[Tensor, "n c side side"], labels: Int[Tensor, " n"], stage: int
    ) -> Float[Tensor, "n channels height width"]:
        """Return the images of a stage's maps, in [-1, 1]."""
        x = self._grown(x, labels, range(stage - 1, len(self.grow)))
        return torch.tanh(self.to_image(x).to(self.project.weight.dtype))  # autocast's is bfloat16

    def _grown(self, x: Tensor, labels: Tensor, layers: range) -> Tensor:
        for i in layers:
            x = self.grow[i](x, labels)
            if i < len(self.residuals):
                x = x + self.residuals[i](x, labels)
        return x

    def fold(self) -> None:
        """Put every normalization but the first into its convolution; same images, less time."""
        for layer in [*self.grow, *self.residuals]:
            layer.fold()


class Encoder(nn.Module):
    """Images to the mean and the log variance of their latents (arXiv 1312.6114), for training alone."""

    def __init__(self, latent_dim: int, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for below, above in pairwise([channels, *widths]):
            layers += [nn.Conv2d(below, above, 4, stride=2, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(above), nn.LeakyReLU(0.1)]
        layers += [nn.Conv2d(widths[-1], widths[-1], 3, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(widths[-1]), nn.LeakyReLU(0.1)]
        self.features = nn.Sequential(*layers)
        self.output = nn.Linear(widths[-1] * START**2, 2 * latent_dim)

    def forward(
        self, images: Float[Tensor, "n channels height width"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Return means and log variances for images in [-1, 1]."""
        mean, log_variance = self.output(self.features(images).flatten(1)).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-8, 2) - 2


class _Head(nn.Module):
    """Scores the places of a map: spectrally normalized, a projection discriminator (arXiv 1802.05637)."""

    def __init__(self, channels: int, strides: Sequence[int], width: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = [channels, *(width >> (len(strides) - 1 - i) for i in range(len(strides)))]
        for (below, above), stride in zip(pairwise(widths), strides, strict=True):
            convolution = nn.Conv2d(below, above, 2 + stride, stride=stride, padding=1)
            layers += [spectral_norm(convolution), nn.LeakyReLU(0.1)]
        self.features = nn.Sequential(*layers)
        self.output = spectral_norm(nn.Conv2d(width, 1, 1))
        self.classes = spectral_norm(nn.Embedding(num_classes, width))

    def forward(self, x: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"]) -> Float[Tensor, "n i j"]:
        features = self.features(x)
        of_class = (features * self.classes(labels)[:, :, None, None].to(features.dtype)).sum(1)
        scores: Tensor = self.output(features)[:, 0] + of_class
        return scores.float()


class FeatureDiscriminator(nn.Module):
    """A head on the pixels, and one on each map of a frozen classifier (arXiv 2111.01007)."""

    def __init__(self, num_classes: int, channels: int, map_widths: Sequence[int], width: int) -> None:
        super().__init__()
        inputs = [channels, *map_widths]
        strides = [(2,) * i or (1,) for i in reversed(range(len(inputs)))]
        self.heads = nn.ModuleList(
            _Head(below, stride, width, num_classes) for below, stride in zip(inputs, strides, strict=True)
        )

    def forward(
        self, images: Float[Tensor, "n channels 32 32"], maps: Sequence[Tensor], labels: Int[Tensor, " n"]
    ) -> list[Float[Tensor, "n 4 4"]]:
        """Return each head's scores at every place, high for real images of that class."""
        return [head(x, labels) for head, x in zip(self.heads, [images, *maps], strict=True)]
