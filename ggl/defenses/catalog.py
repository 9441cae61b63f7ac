"""Defenses by name: "noise:0.01", "precode:256,beta=0.001", and in order "clip:4+noise:0.01"."""

from collections.abc import Callable
from typing import TypeAlias

from ggl.base.errors import InputError
from ggl.base.options import build
from ggl.base.registry import Registry
from ggl.defenses.base import Composed, Defense, NoDefense
from ggl.defenses.clipping import Clipping, LayerClipping
from ggl.defenses.noise import GaussianNoise, LaplacianNoise
from ggl.defenses.orthogonal import Orthogonal
from ggl.defenses.outpost import Outpost
from ggl.defenses.ppp import PPP
from ggl.defenses.precode import CVB, Precode
from ggl.defenses.privacy import DPSGD, DynamicDP, FedCDP
from ggl.defenses.pruning import GlobalPruning, LayerPruning
from ggl.defenses.quantization import QSGD, SignSGD
from ggl.defenses.soteria import Soteria
from ggl.defenses.top_k import TopK

__all__ = ["defenses", "load_defense", "register_defense"]

DefenseFactory: TypeAlias = Callable[..., object]
"""A `Defense` class or a function that returns one; its annotated parameters are the options."""

defenses: Registry[DefenseFactory] = Registry("defense", "ggl.defenses")
register_defense = defenses.register

register_defense("none")(NoDefense)
register_defense("noise")(GaussianNoise)
register_defense("laplace")(LaplacianNoise)
register_defense("clip")(Clipping)
register_defense("clip-layer")(LayerClipping)
register_defense("prune")(LayerPruning)
register_defense("prune-global")(GlobalPruning)
register_defense("top-k")(TopK)
register_defense("sign")(SignSGD)
register_defense("qsgd")(QSGD)
register_defense("soteria")(Soteria)
register_defense("outpost")(Outpost)
register_defense("orthogonal")(Orthogonal)
register_defense("precode")(Precode)
register_defense("cvb")(CVB)
register_defense("ppp")(PPP)
register_defense("dp-sgd")(DPSGD)
register_defense("fed-cdp")(FedCDP)
register_defense("dynamic-dp")(DynamicDP)


def load_defense(specification: str | Defense) -> Defense:
    """Return the defense of "name", "name:value,option=value", or several joined by "+", in that order.

    Raises:
        UnknownNameError: a name or an option that is not known.
        InputError: an option that is missing, of the wrong kind, or out of range.
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
