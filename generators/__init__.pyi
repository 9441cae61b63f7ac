from .base import Prior
from .catalog import priors, register_prior
from .loading import load_prior

__all__ = ["Prior", "load_prior", "priors", "register_prior"]
