"""StyleGAN2 and StyleGAN2-ADA generators, for inference, written from the papers."""

from ggl.generators.stylegan2.prior import StyleGAN2

__all__ = ["StyleGAN2"]
