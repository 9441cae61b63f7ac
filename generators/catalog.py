"""Priors by name: "fashion-dcgan32", "stylegan2:ffhq.pkl,space=w,size=64", "package.module:MyPrior"."""

from collections.abc import Callable
from typing import TypeAlias

from ggl.base.options import build
from ggl.base.registry import Registry
from ggl.generators.adopted import adopt
from ggl.generators.base import Prior
from ggl.generators.biggan.prior import BigGAN
from ggl.generators.bundled.prior import CIFAR10GAN32, FashionDCGAN32
from ggl.generators.dcgan_checkpoint import DCGAN, DigiFace
from ggl.generators.mobilestylegan.prior import MobileStyleGAN
from ggl.generators.pixels import Pixels
from ggl.generators.pretrained_gans import PretrainedGAN
from ggl.generators.stylegan2 import StyleGAN2
from ggl.generators.wgan_gp.prior import WGANGP

__all__ = ["load_prior", "priors", "register_prior"]

PriorFactory: TypeAlias = Callable[..., object]
"""A class, or a function that returns a prior; its annotated parameters are the options."""

priors: Registry[PriorFactory] = Registry("prior", "ggl.priors")
register_prior = priors.register

register_prior("fashion-dcgan32")(FashionDCGAN32)
register_prior("cifar10-gan32")(CIFAR10GAN32)
register_prior("biggan-deep")(BigGAN)
register_prior("stylegan2")(StyleGAN2)
register_prior("mobilestylegan-ffhq")(MobileStyleGAN)
register_prior("digiface-dcgan64")(DigiFace)
register_prior("dcgan")(DCGAN)
register_prior("wgan-gp")(WGANGP)
register_prior("pretrained-gan")(PretrainedGAN)
register_prior("pixels")(Pixels)


def load_prior(specification: str) -> Prior:
    """Return the prior of "name", "name:value,option=value" or `package.module:Class`.

    It is in eval mode, on the CPU.

    What is no `Prior` but has `latent_dim`, `image_shape` and `decode` is taken as one (`adopt`).

    Raises:
        UnknownNameError: a name or an option that is not known.
        InputError: an option is missing or of the wrong kind, or what was found is no prior.
        WeightsError: its weights are missing, cut short or altered.
    """
    factory, text = priors.resolve(specification)
    what = f"prior {specification!r}"
    return adopt(build(what, factory, text), specification).eval()
