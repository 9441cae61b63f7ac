"""Options in a name: "noise:0.1", "cma-es:sigma0=0.3,population=30", read by a function's annotations."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from ggl.base.errors import InputError, users_code
from ggl.base.registry import unknown_name

__all__ = ["build", "parameters_of", "read_integers", "read_options", "specification"]

LARGEST_COUNT = 10_000_000


def parameters_of(what: str, function: Any) -> dict[str, inspect.Parameter]:
    """Return the named parameters of a function or class, annotations evaluated.

    Raises:
        InputError: `function` has no signature that can be read.
    """
    try:
        parameters = inspect.signature(function, eval_str=True).parameters
    except (TypeError, ValueError, NameError) as error:
        raise InputError(f"{what}: expected a class or function with annotations, found {error}") from error
    named = (p for p in parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
    return {p.name: p for p in named}


def build(what: str, factory: Callable[..., Any], text: str | None) -> Any:
    """Return what `factory` makes of the options in `text`, by the annotations of its parameters.

    Where there is no annotation, the default's type counts; without either, what reads as a number is one.

    Parameters that may be given by position may stand without their name, in their order.

    Raises:
        UnknownNameError: an option that is not known.
        InputError: an option that is missing, of the wrong kind, or out of range.
    """
    parameters = parameters_of(what, factory)
    kinds = {name: _kind(p) for name, p in parameters.items()}
    positional = [name for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY]
    options = read_options(what, text, kinds, positional)
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in options:
            raise InputError(f"{what}: expected a value of {name} after the colon, found none")
    with users_code(what):
        return factory(**options)


def _kind(parameter: inspect.Parameter) -> Any:
    """Return a parameter's annotation; where it has none, the type of its default."""
    if parameter.annotation is not parameter.empty:
        return parameter.annotation
    kind = type(parameter.default)
    return kind if kind in (bool, int, float, str) else parameter.empty


def specification(name: str, options: Mapping[str, object]) -> str:
    """Return the text that `build` reads: the name, and the options that are not None.

    Flags are 0 or 1, numbers as Python prints them.
    """
    given = [
        f"{option}={int(value) if isinstance(value, bool) else value}"
        for option, value in options.items()
        if value is not None
    ]
    return ",".join([name, *given]) if ":" in name or not given else f"{name}:{','.join(given)}"


def read_options(
    what: str, text: str | None, kinds: Mapping[str, Any], positional: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the options of "value,option=value", each converted to what its annotation says.

    Args:
        what: whose options they are, for messages ("strategy 'adam:lr=0.1'").
        text: what follows the name's colon; None or empty for no options.
        kinds: the annotation of every option.
        positional: options whose values may stand without their name, in this order, before the others.

    Raises:
        UnknownNameError: an option, or a word as its value, that is not known.
        InputError: a value that is missing, given twice, or of the wrong kind.
    """
    if text and not kinds:
        raise InputError(f"{what}: expected nothing after the name, found {text!r}")
    options: dict[str, Any] = {}
    places = list(positional)
    for part in text.split(",") if text else []:
        option, equals, value = (word.strip() for word in part.partition("="))
        if not equals and places:
            option, value = places.pop(0), option
        elif equals:
            places = []
        if not value or option in options:
            raise InputError(f"{what}: expected option=value, each once, found {part!r}")
        if option not in kinds:
            raise unknown_name(f"option of {_without_options(what)}", option, list(kinds))
        options[option] = _convert(what, option, value, kinds[option])
    return options


def _without_options(what: str) -> str:
    return what.partition(":")[0].replace("'", "")


def _convert(what: str, option: str, value: str, annotation: Any) -> Any:
    """Return the value as what its annotation says: a word, a flag, a count or a number."""
    if annotation is inspect.Parameter.empty:
        return _guessed(value)
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    if words:
        if value not in words:
            raise unknown_name(f"value of {option}", value, words)
        return value
    if str in kinds:
        return value
    if bool in kinds:
        if value not in ("0", "1"):
            raise InputError(f"{what}: expected 0 or 1 for {option}, found {value}")
        return value == "1"
    try:
        number = float(value)
    except ValueError as error:
        raise InputError(f"{what}: expected a number for {option}, found {value!r}") from error
    if int not in kinds:
        return number
    if not number.is_integer():
        raise InputError(f"{what}: expected a whole number for {option}, found {value}")
    if abs(number) > LARGEST_COUNT:
        raise InputError(f"{what}: expected at most {LARGEST_COUNT:,} for {option}, found {value}")
    return int(number)


def _guessed(value: str) -> int | float | str:
    """Return what an option without annotation and default is given: a number where it reads as one."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(value)
    return value


def read_integers(what: str, text: str) -> tuple[int, ...]:
    """Return the integers of "0,300,3000".

    Raises:
        InputError: a part is none; `what` begins the message.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{what}: expected integers such as 0,3,7, found {text!r}") from error
