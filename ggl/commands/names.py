"""What is registered under a name."""

import inspect
from typing import Any

from ggl.base.registry import Registry
from ggl.defenses import defenses
from ggl.generators import priors
from ggl.optimizers import strategies
from ggl.victims import victims

__all__ = ["describe"]


def describe(kind: str) -> dict[str, str]:
    """Return the first line of what is registered, by name, for "priors", "strategies" and so on."""
    kinds: dict[str, Registry[Any]] = {
        "priors": priors,
        "strategies": strategies,
        "defenses": defenses,
        "victims": victims,
    }
    table = kinds[kind]
    return {name: (inspect.getdoc(table[name]) or "").partition("\n")[0] for name in table.names()}
