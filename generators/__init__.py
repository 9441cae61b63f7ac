"""The latent-space layer: priors over images."""

import ggl.generators.published  # noqa: F401  # the catalog of weights
from ggl.generators.base import Prior
from ggl.generators.catalog import load_prior, priors, register_prior

__all__ = ["Prior", "load_prior", "priors", "register_prior"]
