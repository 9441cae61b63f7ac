"""BigGAN-deep on ImageNet (arXiv 1809.11096), the prior of GGL's ImageNet experiments."""

from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from ggl.base.errors import InputError, WeightsError
from ggl.base.options import specification
from ggl.base.weight_files import locate
from ggl.base.weights import load_tensors
from ggl.generators.biggan.configuration import PUBLISHED, Configuration, read_configuration
from ggl.generators.biggan.network import begin, build_generator, finish, shapes_of
from ggl.generators.stages import StagedPrior, restored, stage_of
from ggl.generators.whitening import whitening_of

__all__ = ["BigGAN"]

MODEL, CONFIGURATION = "pytorch_model.bin", "config.json"


class BigGAN(StagedPrior):
    """ImageNet, 128, 256 or 512 px, 1000 classes, 128 latent dimensions; DeepMind's weights (Apache-2.0).

    Coordinates z are standard normal; the generator gets `truncation` · z. Unlike the library's sampler
    nothing is cut off at 2: the generator was trained on whole normals (arXiv 1809.11096, section 3.1),
    and GGL searches them at truncation 1. The latents rule "box:2" confines a search to the sampler's.

    Args:
        resolution: 128, 256 or 512 px.
        weights: a folder with `pytorch_model.bin` and, if it is not the published one, its `config.json`;
            or a file of tensors (.bin, .safetensors) in the published configuration. None: the catalog's
            entry `biggan-deep-RESOLUTION`.
        size: pixels to which images are reduced by area interpolation (GGL: 256 to 224); None: not at all.
        truncation: in (0, 1]; also selects the batch statistics.
        search: "z" for latents under a class label; "class" to search the class embedding too, without
            labels. Then the latter half of the coordinates u stands for the embedding e = m + Σ^½ u,
            m and Σ being mean and covariance of the 1000 embeddings, Σ^½ the symmetric root.

    Raises:
        InputError: an option out of range, or the library is not installed.
        WeightsError: the weights or their configuration are missing, damaged or of another network.
    """

    licence = "Apache-2.0"
    reads_latents = True
    embeddings: Tensor
    embedding_mean: Tensor
    embedding_root: Tensor

    def __init__(
        self,
        resolution: int = 256,
        *,
        weights: str | None = None,
        size: int | None = None,
        truncation: float = 1.0,
        search: Literal["z", "class"] = "z",
    ) -> None:
        super().__init__()
        _check_options(resolution, size, truncation)
        self.name = specification(
            f"biggan-deep:{resolution}",
            {
                "weights": weights,
                "size": size,
                "truncation": truncation if truncation != 1 else None,
                "search": search if search != "z" else None,
            },
        )
        self.image_shape = (3, size or resolution, size or resolution)
        self.truncation = truncation
        path, configuration = _weights_of(resolution, weights)
        self.generator, embeddings = build_generator(configuration, load_tensors(path), truncation, path)
        self.z_dim = configuration.z_dim
        self.shapes = shapes_of(configuration)
        self.stages = tuple(map(stage_of, self.shapes))
        if search == "class":
            self.latent_dim = 2 * self.z_dim
            mean, root = whitening_of(embeddings)
            self.register_buffer("embedding_mean", mean.to(embeddings.dtype))
            self.register_buffer("embedding_root", root.to(embeddings.dtype))
        else:
            self.latent_dim, self.num_classes = self.z_dim, configuration.num_classes
            self.register_buffer("embeddings", embeddings)

    def decode(
        self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n 3 height width"]:
        """Return the images of latents `z` (n, latent_dim) in [0, 1].

        `labels` (n,) are ImageNet's class indices in [0, 1000); ignored where the class is searched.
        Latents so far out that the network overflows give gray.
        """
        self.check_labels(labels)
        return self._images(self.generator(self._condition(z, labels), self.truncation))

    def features(
        self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None, stage: int
    ) -> Float[Tensor, "n size"]:
        """Return the maps of 4 px, stage 1, or after a layer, the stages from 2."""
        self.check_labels(labels)
        return begin(self.generator, self._condition(z, labels), stage).flatten(1)

    def finish(
        self,
        a: Float[Tensor, "n size"],
        z: Float[Tensor, "n d"],
        labels: Int[Tensor, " n"] | None,
        stage: int,
    ) -> Float[Tensor, "n 3 height width"]:
        """Return the images of a stage's maps, under the condition of latents and labels."""
        maps = restored(a, self.shapes[stage - 1])
        return self._images(finish(self.generator, maps, self._condition(z, labels), stage))

    def _images(self, values: Tensor) -> Tensor:
        images = (values.nan_to_num(nan=0.0) + 1) / 2
        side = self.image_shape[1:]
        return images if images.shape[2:] == side else F.interpolate(images, side, mode="area")

    def _condition(self, z: Tensor, labels: Tensor | None) -> Tensor:
        noise = self.truncation * z[:, : self.z_dim]
        return torch.cat((noise, self._embedding(z[:, self.z_dim :], labels)), dim=1)

    def _embedding(self, coordinates: Tensor, labels: Tensor | None) -> Tensor:
        """Return class embeddings (n, z_dim) of labels, or of coordinates where the class is searched."""
        if self.num_classes is None or labels is None:
            return torch.addmm(self.embedding_mean, coordinates, self.embedding_root)
        return F.embedding(labels, self.embeddings)


def _check_options(resolution: int, size: int | None, truncation: float) -> None:
    if resolution not in PUBLISHED:
        raise InputError(f"prior biggan-deep: expected a resolution of 128, 256 or 512, found {resolution}")
    if size is not None and not 1 <= size <= resolution:
        raise InputError(f"prior biggan-deep: expected a size from 1 to {resolution}, found {size}")
    if not 0 < truncation <= 1:
        raise InputError(f"prior biggan-deep: expected a truncation above 0, at most 1, found {truncation:g}")


def _weights_of(resolution: int, weights: str | None) -> tuple[Path, Configuration]:
    """Return where the tensors lie, and their network's configuration."""
    place = locate(f"biggan-deep-{resolution}") if weights is None else Path(weights)
    if place.is_file():
        return place, PUBLISHED[resolution]
    if not place.is_dir():
        raise WeightsError(f"{place}: expected a folder with {MODEL}, or a file of tensors; found neither")
    stated = place / CONFIGURATION
    configuration = read_configuration(stated, resolution) if stated.exists() else PUBLISHED[resolution]
    return place / MODEL, configuration
