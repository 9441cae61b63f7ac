"""Priors by name, and what each is; none is imported before it is asked for."""

from collections.abc import Callable
from typing import TypeAlias

from ggl.base.registry import Registry

__all__ = ["PriorFactory", "priors", "register_prior"]

PriorFactory: TypeAlias = Callable[..., object]
"""A class, or a function that returns a prior; its annotated parameters are the options."""

LISTED = {
    "fashion-dcgan32": (
        "ggl.generators.bundled.prior:FashionDCGAN32",
        "Clothes, 32 px grey, 10 classes, 64 latent dimensions; bundled, trained by this project (MIT).",
    ),
    "fashion-flow32": (
        "ggl.generators.flow.prior:FashionFlow32",
        "Clothes, 32 px grey, 10 classes, 128 latent dimensions; bundled, a flow trained here (MIT).",
    ),
    "cifar10-gan32": (
        "ggl.generators.bundled.prior:CIFAR10GAN32",
        "CIFAR-10, 32 px color, 10 classes, 160 latent dimensions; bundled, trained by this project (MIT).",
    ),
    "biggan-deep": (
        "ggl.generators.biggan.prior:BigGAN",
        "ImageNet, 128, 256 or 512 px, 1000 classes, 128 latent dimensions; DeepMind's weights (Apache-2.0).",
    ),
    "stylegan2": (
        "ggl.generators.stylegan2:StyleGAN2",
        "A StyleGAN2 generator from a file (arXiv 1912.04958, 2006.06676).",
    ),
    "mobilestylegan-ffhq": (
        "ggl.generators.mobilestylegan.prior:MobileStyleGAN",
        "Faces, up to 1024 px color, 512 latent dimensions; S. Belousov's weights (Apache-2.0).",
    ),
    "digiface-dcgan64": (
        "ggl.generators.dcgan_checkpoint:DigiFace",
        "Rendered faces, 64 px RGB, 100 latent dimensions: a DCGAN that Chien Liu trained on DigiFace-1M.",
    ),
    "dcgan": (
        "ggl.generators.dcgan_checkpoint:DCGAN",
        "A plain generator from a state dict: DCGAN's, MLPs, upsampling ones, with or without labels.",
    ),
    "wgan-gp": (
        "ggl.generators.wgan_gp.prior:WGANGP",
        "A WGAN-GP generator, 32 px RGB, without classes: what `ggl.generators.wgan_gp.train` writes.",
    ),
    "flow": (
        "ggl.generators.flow.prior:FlowPrior",
        "A flow-matching prior, 32 px, with classes: what `ggl.generators.flow.train` writes.",
    ),
    "pretrained-gan": (
        "ggl.generators.pretrained_gans:PretrainedGAN",
        "A GAN of the library pytorch-pretrained-gans (biggan, studiogan, bigbigan, ...), by its own loader.",
    ),
    "pixels": (
        "ggl.generators.pixels:Pixels",
        "Images whose pixels are independent, 0.5 + z / 4, cut to [0, 1]; no weights.",
    ),
}

priors: Registry[PriorFactory] = Registry("prior", "ggl.priors", LISTED)
register_prior = priors.register
