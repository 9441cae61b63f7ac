"""Strategies by name: "cma-es", "cma-es:sigma0=0.3,population=30"."""

import inspect
from collections.abc import Callable, Sequence
from types import UnionType
from typing import Any, Literal, TypeAlias, get_args, get_origin

import torch

from ggl.base.errors import InputError
from ggl.base.registry import Registry, unknown_name
from ggl.optimizers.adam import Adam
from ggl.optimizers.base import Strategy
from ggl.optimizers.basin_cma import BasinCMA
from ggl.optimizers.cmaes import CMAES, SeparableCMAES
from ggl.optimizers.gp import GaussianProcess
from ggl.optimizers.group import Group, SideBySide
from ggl.optimizers.lbfgs import LBFGS
from ggl.optimizers.nevergrad import Nevergrad
from ggl.optimizers.nevergrad_ggl import NevergradCMAGGL
from ggl.optimizers.pycma import PyCMA
from ggl.optimizers.random_search import RandomSearch
from ggl.optimizers.turbo import TuRBO

__all__ = ["load_group", "load_strategy", "register_strategy", "strategies"]

StrategyFactory: TypeAlias = Callable[..., Strategy]
"""A `Strategy` class: (latent_dim, *, budget, seed, and options that are numbers or words)."""

strategies: Registry[StrategyFactory] = Registry("strategy", "ggl.optimizers")
register_strategy = strategies.register

register_strategy("cma-es")(CMAES)
register_strategy("sep-cma-es")(SeparableCMAES)
register_strategy("pycma")(PyCMA)
register_strategy("nevergrad")(Nevergrad)
register_strategy("nevergrad-cma-ggl")(NevergradCMAGGL)
register_strategy("bo")(GaussianProcess)
register_strategy("turbo")(TuRBO)
register_strategy("random")(RandomSearch)
register_strategy("adam")(Adam)
register_strategy("l-bfgs")(LBFGS)
register_strategy("basin-cma")(BasinCMA)


def load_strategy(specification: str, *, latent_dim: int, budget: int, seed: int) -> Strategy:
    """Return the strategy of "name" or "name:option=value,option=value".

    Args:
        specification: a registered name with its options, or `package.module:Class`.
        latent_dim: d of the latents searched.
        budget: objective evaluations that the search may spend.
        seed: of the strategy's random stream.

    Raises:
        UnknownNameError: a name or an option that is not known.
        InputError: an option of the wrong kind or out of range.
    """
    factory, options = _resolve(specification)
    strategy = factory(latent_dim, budget=budget, seed=seed, **options)
    if not isinstance(strategy, Strategy):
        raise InputError(f"strategy {specification!r}: expected a Strategy, found {type(strategy).__name__}")
    return strategy


def load_group(
    specification: str,
    *,
    latent_dim: int,
    budget: int,
    seeds: Sequence[int],
    device: torch.device | None = None,
) -> Group:
    """Return searches that advance together, one a seed; otherwise as `load_strategy`.

    A strategy class with a `group` method of its own advances them as one set of tensors on `device`.
    """
    factory, options = _resolve(specification)
    together = getattr(factory, "group", None)
    if together is None:
        kind = {"latent_dim": latent_dim, "budget": budget}
        return SideBySide([load_strategy(specification, seed=seed, **kind) for seed in seeds])
    group: Group = together(
        latent_dim, budget=budget, seeds=seeds, device=device or torch.device("cpu"), **options
    )
    return group


def _resolve(specification: str) -> tuple[StrategyFactory, dict[str, Any]]:
    """Return the factory of a specification, and its options converted to their annotated kinds."""
    factory, text = strategies.resolve(specification)
    kinds = {p.name: p.annotation for p in inspect.signature(factory, eval_str=True).parameters.values()}
    known = [option for option in kinds if option not in ("latent_dim", "budget", "seed")]
    options: dict[str, Any] = {}
    for part in text.split(",") if text else []:
        option, _, value = (word.strip() for word in part.partition("="))
        if not value:
            raise InputError(
                f"strategy {specification!r}: expected option=value after the colon, found {part!r}"
            )
        if option not in known:
            raise unknown_name(f"option of strategy {specification.partition(':')[0]}", option, known)
        options[option] = _convert(option, value, kinds[option])
    return factory, options


def _convert(option: str, value: str, annotation: Any) -> Any:
    """Return the value as what its annotation says: a word, a flag, a count or a number."""
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    if str in kinds:
        return value
    if get_origin(annotation) is Literal:
        if value not in get_args(annotation):
            raise unknown_name(f"value of {option}", value, list(get_args(annotation)))
        return value
    if bool in kinds:
        if value not in ("0", "1"):
            raise InputError(f"expected 0 or 1 for {option}, found {value}")
        return value == "1"
    try:
        number = float(value)
    except ValueError as error:
        raise InputError(f"expected a number for {option}, found {value!r}") from error
    if int in kinds and not number.is_integer():
        raise InputError(f"expected a whole number for {option}, found {value}")
    return int(number) if int in kinds else number
