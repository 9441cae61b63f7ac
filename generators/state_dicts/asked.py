"""What a state dict cannot say and a user does: activations, and lists of values."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from ggl.base.errors import InputError
from ggl.base.registry import unknown_name
from ggl.generators.state_dicts.layers import question

__all__ = ["ACTIVATIONS", "read_activation", "read_list"]

ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
}
"""By name; "leaky-relu:0.2" and "elu:0.5" have a number, of which torch's default is 0.01 and 1."""


def read_activation(text: str) -> nn.Module | None:
    """Return the module of "relu", "leaky-relu:0.2", ..., None of "none".

    Raises:
        UnknownNameError: no such activation.
        InputError: its number is none, or it takes none.

    >>> read_activation("leaky-relu:0.2")
    LeakyReLU(negative_slope=0.2)
    """
    if text == "none":
        return None
    name, colon, number = text.partition(":")
    if name not in ACTIVATIONS:
        raise unknown_name("activation", name, [*ACTIVATIONS, "none"])
    if not colon:
        return ACTIVATIONS[name]()
    try:
        value = float(number)
    except ValueError as error:
        raise InputError(f"activation: expected a number after {name}:, found {number!r}") from error
    if name not in ("leaky-relu", "elu"):
        raise InputError(f"activation: expected no number after {name}, found {number}")
    return ACTIVATIONS[name](value)


def read_list(path: str | Path, option: str, text: str, count: int, what: str) -> list[str]:
    """Return the values of "a/b/c", one for each of `count`; a single one is meant for all.

    Raises:
        InputError: another number of values.
    """
    values = text.split("/")
    if len(values) not in (1, count):
        raise question(
            path, f"{option}=: expected one value, or one for each of {count} {what}, found {len(values)}"
        )
    return values * count if len(values) == 1 else values
