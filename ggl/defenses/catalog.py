"""Defenses by name: "noise:0.01", and in order "clip:4+noise:0.01"."""

import inspect
from collections.abc import Callable
from typing import TypeAlias

from ggl.base.errors import InputError
from ggl.base.registry import Registry
from ggl.defenses.base import Composed, Defense, NoDefense
from ggl.defenses.clipping import Clipping, LayerClipping
from ggl.defenses.noise import GaussianNoise, LaplacianNoise
from ggl.defenses.pruning import GlobalPruning, LayerPruning

__all__ = ["defenses", "load_defense", "register_defense"]

DefenseFactory: TypeAlias = Callable[..., object]
"""A `Defense` class or a function that returns one, from no or one number: `name` or `name:number`."""

defenses: Registry[DefenseFactory] = Registry("defense", "ggl.defenses")
register_defense = defenses.register

register_defense("none")(NoDefense)
register_defense("noise")(GaussianNoise)
register_defense("laplace")(LaplacianNoise)
register_defense("clip")(Clipping)
register_defense("clip-layer")(LayerClipping)
register_defense("prune")(LayerPruning)
register_defense("prune-global")(GlobalPruning)


def load_defense(specification: str | Defense) -> Defense:
    """Return the defense of "name", "name:parameter" or "name:parameter+name:parameter", in that order.

    Raises:
        UnknownNameError: a name that is not registered.
        InputError: a parameter that is missing, not a number, or out of range.
    """
    if isinstance(specification, Defense):
        return specification
    parts = [_load_one(part.strip()) for part in specification.split("+")]
    return parts[0] if len(parts) == 1 else Composed(parts)


def _load_one(specification: str) -> Defense:
    factory, parameter = defenses.resolve(specification)
    try:
        numbers = [] if parameter is None else [float(parameter)]
    except ValueError as error:
        raise InputError(f"defense {specification!r}: expected a number after the colon") from error
    try:
        inspect.signature(factory).bind(*numbers)
    except TypeError as error:
        wanted = "no number after it" if numbers else f"a number, such as {specification}:0.1"
        raise InputError(f"defense {specification!r}: expected {wanted}") from error
    defense = factory(*numbers)
    if not isinstance(defense, Defense):
        raise InputError(f"defense {specification!r}: expected a ggl.Defense, found {type(defense).__name__}")
    return defense
