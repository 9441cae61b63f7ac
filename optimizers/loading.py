"""Strategies by name: "cma-es", "cma-es:sigma0=0.3,population=30"."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ggl.base.errors import InputError, users_code
from ggl.base.options import parameters_of, read_options
from ggl.optimizers.base import Strategy
from ggl.optimizers.catalog import StrategyFactory, strategies
from ggl.optimizers.group import Group, SideBySide

__all__ = [
    "load_group",
    "load_strategy",
]


GIVEN = {"latent_dim", "budget", "seed"}
"""What every strategy is made with; the rest of its parameters are options, but for `BLOCKS`."""

BLOCKS = "blocks"
"""The parameter of a strategy that wants to know how many images the latents are of."""


def load_strategy(
    specification: str, *, latent_dim: int, budget: int, seed: int, blocks: int = 1
) -> Strategy:
    """Return the strategy of "name", "name:option=value,option=value" or "package.module:Class:option=value".

    Args:
        specification: a registered name or the user's own class, with options.
        latent_dim: d of the latents searched.
        budget: objective evaluations that the search may spend.
        seed: of the strategy's random stream.
        blocks: images of a batch whose latents are searched jointly, row-major; a strategy that has a
            parameter of that name is told.

    Raises:
        UnknownNameError: a name or an option that is not known.
        InputError: an option of the wrong kind or out of range.

    Examples:
        >>> strategy = ggl.load_strategy("cma-es:population=10", latent_dim=4, budget=500, seed=0)
        >>> for _ in range(50):
        ...     z = strategy.ask()
        ...     strategy.tell(z, z.square().sum(1))
        >>> bool(strategy.ask().square().sum(1).min() < 1e-3)
        True
    """
    factory, options = _resolve(specification, blocks)
    return _build(specification, factory, options, latent_dim=latent_dim, budget=budget, seed=seed)


def load_group(
    specification: str,
    *,
    latent_dim: int,
    budget: int,
    seeds: Sequence[int],
    device: torch.device | None = None,
    blocks: int = 1,
) -> Group:
    """Return searches that advance together, one a seed; otherwise as `load_strategy`.

    A strategy class with a `group` method advances them as one set of tensors on `device`. A class that
    inherits the method but changes the search does not. An option `device` is `device` by default.
    """
    factory, options = _resolve(specification, blocks)
    place = device or torch.device("cpu")
    together = _own_group(factory)
    if together is not None:
        group = together(latent_dim, budget=budget, seeds=seeds, device=place, **options)
        if not isinstance(group, Group):
            raise InputError(f"strategy {specification!r}: expected a Group, found {type(group).__name__}")
        return group
    if "device" in inspect.signature(factory).parameters:
        options = {"device": str(place), **options}
    kind = {"latent_dim": latent_dim, "budget": budget}
    return SideBySide([_build(specification, factory, options, seed=seed, **kind) for seed in seeds])


def _build(specification: str, factory: StrategyFactory, options: dict[str, Any], **given: int) -> Strategy:
    with users_code(f"strategy {specification!r}"):
        strategy = factory(given.pop("latent_dim"), **given, **options)
    if not isinstance(strategy, Strategy):
        raise InputError(f"strategy {specification!r}: expected a Strategy, found {type(strategy).__name__}")
    return strategy


def _own_group(factory: StrategyFactory) -> Callable[..., object] | None:
    """Return the `group` of the class that wrote the search, if it has one."""
    owner = next((c for c in getattr(factory, "__mro__", ()) if "group" in vars(c)), None)
    if owner is None or not callable(owner.group):
        return None
    same = all(getattr(factory, part) is getattr(owner, part) for part in ("__init__", "_ask", "_tell"))
    found: Callable[..., object] | None = getattr(factory, "group") if same else None  # noqa: B009
    return found


def _resolve(specification: str, blocks: int) -> tuple[StrategyFactory, dict[str, Any]]:
    """Return the factory of a specification, and its options converted to their annotated kinds.

    `blocks` is added where the factory takes it; it is no option of the specification.
    """
    factory, text = strategies.resolve(specification)
    what = f"strategy {specification!r}"
    parameters = parameters_of(what, factory)
    if not parameters.keys() >= GIVEN:
        raise InputError(
            f"{what}: expected a class that takes latent_dim, budget and seed, "
            f"found {', '.join(parameters) or 'no parameters'}"
        )
    kinds = {name: p.annotation for name, p in parameters.items() if name not in {*GIVEN, BLOCKS}}
    told = {BLOCKS: blocks} if BLOCKS in parameters else {}
    return factory, read_options(what, text, kinds) | told
