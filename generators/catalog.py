"""Priors by name."""

import inspect
from collections.abc import Callable
from typing import TypeAlias

from ggl.base.errors import InputError
from ggl.base.registry import Registry
from ggl.generators.base import Prior
from ggl.generators.fashion import FashionDCGAN32

__all__ = ["load_prior", "priors", "register_prior"]

PriorFactory: TypeAlias = Callable[..., Prior]
"""A `Prior` class or a function that returns one, from nothing or the text after the name's colon."""

priors: Registry[PriorFactory] = Registry("prior", "ggl.priors")
register_prior = priors.register

register_prior("fashion-dcgan32")(FashionDCGAN32)


def load_prior(specification: str) -> Prior:
    """Return the prior of "name", "name:parameter" or `package.module:Class`, in eval mode, on the CPU.

    Raises:
        UnknownNameError: a name that is not registered.
        InputError: a parameter is missing or superfluous, or what was found is no `Prior`.
        WeightsError: its weights are missing, cut short or altered.
    """
    factory, parameter = priors.resolve(specification)
    arguments = [] if parameter is None else [parameter]
    try:
        inspect.signature(factory).bind(*arguments)
    except TypeError as error:
        wanted = "nothing" if arguments else "a parameter"
        raise InputError(f"prior {specification!r}: expected {wanted} after the name") from error
    prior = factory(*arguments)
    if not isinstance(prior, Prior):
        raise InputError(f"prior {specification!r}: expected a ggl.Prior, found {type(prior).__name__}")
    return prior.eval()
