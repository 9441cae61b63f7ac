"""Strategies by name: "cma-es", "cma-es:sigma0=0.3,population=30"."""

import inspect
from collections.abc import Callable
from typing import TypeAlias

from ggl.base.errors import InputError
from ggl.base.registry import Registry, unknown_name
from ggl.optimizers.adam import Adam
from ggl.optimizers.base import Strategy
from ggl.optimizers.cmaes import CMAES, SeparableCMAES
from ggl.optimizers.random_search import RandomSearch

__all__ = ["load_strategy", "register_strategy", "strategies"]

StrategyFactory: TypeAlias = Callable[..., Strategy]
"""A `Strategy` class: (latent_dim, *, budget, seed, and options that are numbers)."""

strategies: Registry[StrategyFactory] = Registry("strategy", "ggl.optimizers")
register_strategy = strategies.register

register_strategy("cma-es")(CMAES)
register_strategy("sep-cma-es")(SeparableCMAES)
register_strategy("random")(RandomSearch)
register_strategy("adam")(Adam)


def load_strategy(specification: str, *, latent_dim: int, budget: int, seed: int) -> Strategy:
    """Return the strategy of "name" or "name:option=number,option=number".

    Args:
        specification: a registered name with its options, or `package.module:Class`.
        latent_dim: d of the latents searched.
        budget: objective evaluations that the search may spend.
        seed: of the strategy's random stream.

    Raises:
        UnknownNameError: a name or an option that is not known.
        InputError: an option that is not a number or is out of range.
    """
    factory, text = strategies.resolve(specification)
    options = _options(specification, text)
    kinds = {p.name: p.annotation for p in inspect.signature(factory).parameters.values()}
    known = [option for option in kinds if option not in ("latent_dim", "budget", "seed")]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of strategy {specification.partition(':')[0]}", option, known)
    numbers = {option: _number(option, value, kinds[option]) for option, value in options.items()}
    strategy = factory(latent_dim, budget=budget, seed=seed, **numbers)
    if not isinstance(strategy, Strategy):
        raise InputError(f"strategy {specification!r}: expected a Strategy, found {type(strategy).__name__}")
    return strategy


def _options(specification: str, text: str | None) -> dict[str, float]:
    options: dict[str, float] = {}
    for part in text.split(",") if text else []:
        name, _, value = part.partition("=")
        try:
            options[name.strip()] = float(value)
        except ValueError as error:
            raise InputError(
                f"strategy {specification!r}: expected option=number after the colon, found {part!r}"
            ) from error
    return options


def _number(option: str, value: float, kind: object) -> int | float:
    """Return the value as an integer, unless its annotation says that it is no count."""
    if kind in (int, int | None) and not value.is_integer():
        raise InputError(f"expected a whole number for {option}, found {value:g}")
    return int(value) if value.is_integer() and kind is not float else value
