"""The bundled priors: class-conditional DCGANs that this project trained, their weights in the package."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ggl.base.weight_files import locate
from ggl.base.weights import load_tensors
from ggl.generators.bundled.network import START
from ggl.generators.bundled.recipes import RECIPES
from ggl.generators.stages import StagedPrior, restored, stage_of

__all__ = ["CIFAR10GAN32", "FashionDCGAN32"]


class _BundledDCGAN(StagedPrior):
    """A prior of 32 px by its name in `RECIPES`."""

    licence = "MIT"

    def __init__(self) -> None:
        super().__init__()
        recipe = RECIPES[self.name]
        self.latent_dim, self.num_classes = recipe.latent_dim, recipe.num_classes
        self.image_shape = (recipe.channels, 32, 32)
        self.shapes = [(w, START * 2**i, START * 2**i) for i, w in enumerate(recipe.generator_widths)]
        self.stages = tuple(map(stage_of, self.shapes))
        with torch.random.fork_rng(devices=[]):
            generator = recipe.generator()
        stored = generator.state_dict()
        weights = load_tensors(locate(self.name) / f"{self.name}.safetensors")
        generator.load_state_dict({name: weights[name].to(stored[name].dtype) for name in stored})
        generator.eval().fold()
        self.generator: Any = generator.requires_grad_(False).to(memory_format=torch.channels_last)

    def decode(
        self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n channels 32 32"]:
        """Return the images of latents `z` (n, d) and labels (n,) in [0, 10), in [0, 1]."""
        self.check_labels(labels)
        images: Tensor = (self.generator(z, labels) + 1) / 2
        return images

    def features(
        self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None, stage: int
    ) -> Float[Tensor, "n size"]:
        """Return the maps of 4, 8, 16 or 32 px, the stages 1 to 4."""
        self.check_labels(labels)
        maps: Tensor = self.generator.begin(z, labels, stage)
        return maps.flatten(1)

    def finish(
        self,
        a: Float[Tensor, "n size"],
        z: Float[Tensor, "n d"],  # noqa: ARG002
        labels: Int[Tensor, " n"] | None,
        stage: int,
    ) -> Float[Tensor, "n channels 32 32"]:
        """Return the images of a stage's maps."""
        maps = restored(a, self.shapes[stage - 1])
        images: Tensor = (self.generator.finish(maps, labels, stage) + 1) / 2
        return images


class FashionDCGAN32(_BundledDCGAN):
    """Clothes, 32 px grey, 10 classes, 64 latent dimensions; bundled, trained by this project (MIT)."""

    name = "fashion-dcgan32"
    heldout = "fashion-mnist-heldout"


class CIFAR10GAN32(_BundledDCGAN):
    """CIFAR-10, 32 px color, 10 classes, 160 latent dimensions; bundled, trained by this project (MIT)."""

    name = "cifar10-gan32"
