"""The latent-space layer: priors over images."""

if __name__ != "ggl.generators":
    raise ImportError(f"expected import ggl.generators, found import {__name__}: its classes would be others")

import lazy_loader

import ggl.generators.published  # noqa: F401  # the catalog of weights

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
