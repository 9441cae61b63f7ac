"""The embedded prior: a class-conditional DCGAN trained on Fashion-MNIST's training split."""

from importlib.resources import files
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ggl.base.weights import load_tensors
from ggl.generators.base import Prior
from ggl.generators.dcgan import Generator

__all__ = ["FashionDCGAN32"]

LATENT_DIM = 64
NUM_CLASSES = 10
WIDTHS = (192, 96, 64, 32)
SHA256 = "3c9258eae61155fdeef1f655cf9a65f0d98f9f8eca18088342e967e369f2fa20"


class FashionDCGAN32(Prior):
    """Clothes, 32 px grey, 10 classes, 64 latent dimensions; bundled, trained by this project (MIT)."""

    name = "fashion-dcgan32"
    licence = "MIT"
    latent_dim = LATENT_DIM
    image_shape = (1, 32, 32)
    num_classes = NUM_CLASSES
    heldout = "fashion-mnist-heldout"

    def __init__(self) -> None:
        super().__init__()
        path = files("ggl.generators") / "assets" / "fashion-dcgan32.safetensors"
        with torch.random.fork_rng(devices=[]):
            generator = Generator(LATENT_DIM, NUM_CLASSES, self.image_shape[0], WIDTHS)
        stored = generator.state_dict()
        weights = load_tensors(str(path), expected_sha256=SHA256)
        generator.load_state_dict({name: weights[name].to(stored[name].dtype) for name in stored})
        self.generator = _folded(generator.eval()).requires_grad_(False)

    def decode(
        self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n 1 32 32"]:
        """Return the images of latents `z` (n, 64) and labels (n,) in [0, 10), in [0, 1]."""
        self.check_labels(labels)
        images: Tensor = (self.generator(z, labels) + 1) / 2
        return images


def _folded(generator: Generator) -> Generator:
    """Fold each block's normalization into its convolution; same images, less time."""
    blocks: list[Any] = [list(block.children()) for block in generator.blocks]
    generator.blocks = nn.ModuleList(
        nn.Sequential(fuse_conv_bn_eval(convolution, norm, transpose=True), relu)
        for convolution, norm, relu in blocks
    )
    return generator.to(memory_format=torch.channels_last)
