"""Defenses by name: "noise:0.01", "precode:256,beta=0.001", and in order "clip:4+noise:0.01"."""

from ggl.base.errors import InputError
from ggl.base.options import build
from ggl.defenses.base import Composed, Defense
from ggl.defenses.catalog import defenses

__all__ = ["load_defense"]


def load_defense(specification: str | Defense) -> Defense:
    """Return the defense of "name", "name:value,option=value", or several joined by "+", in that order.

    Raises:
        UnknownNameError: a name or an option that is not known.
        InputError: an option that is missing, of the wrong kind, or out of range.

    Examples:
        >>> defense = ggl.load_defense("clip:1+prune:0.5")
        >>> defense.protect({"weight": torch.tensor([3.0, 4.0])}, torch.Generator())
        {'weight': tensor([0.0000, 0.8000])}
    """
    if isinstance(specification, Defense):
        return specification
    parts = [_load_one(part.strip()) for part in specification.split("+")]
    return parts[0] if len(parts) == 1 else Composed(parts)


def _load_one(specification: str) -> Defense:
    factory, text = defenses.resolve(specification)
    what = f"defense {specification!r}"
    defense = build(what, factory, text)
    if not isinstance(defense, Defense):
        raise InputError(f"{what}: expected a ggl.Defense, found {type(defense).__name__}")
    return defense
