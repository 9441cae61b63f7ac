"""What pydantic finds wrong with a spec, in one line."""

import reprlib
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError

from ggl.base.errors import InputError, UnknownNameError
from ggl.base.registry import unknown_name

__all__ = ["one_line"]

KINDS = {
    "int_type": "an integer",
    "string_type": "a text",
    "model_type": "a table",
    "too_short": "at least one value",
    "string_too_short": "a text that is not empty",
}
"""What was expected, by pydantic's name of the error."""


def one_line(error: ValidationError, what: str, known: Callable[[str], list[str]]) -> InputError:
    """Return the first error, keys that are not known before all others: they explain missing ones.

    Args:
        error: pydantic's.
        what: the spec's name.
        known: the keys of a table by its name, "" for the spec itself.
    """
    found: Sequence[Any] = error.errors()
    first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])
    place, kind = first["loc"], first["type"]
    if kind == "extra_forbidden":
        table = str(place[0]) if len(place) > 1 else ""
        if table and place[-1] in known(""):
            return InputError(f"{what}: {table}: {place[-1]!r} is no axis; write it above the first table")
        reason = unknown_name("axis" if table else "key of a spec", str(place[-1]), known(table))
        return UnknownNameError(": ".join(filter(None, [what, _where(place[:-1]), str(reason)])))
    if kind == "value_error":
        return InputError(": ".join(filter(None, [what, _where(place), str(first["ctx"]["error"])])))
    value = "none" if kind == "missing" else reprlib.repr(first["input"])
    return InputError(f"{what}: {_where(place)}: expected {_expected(first)}, found {value}")


def _expected(error: Any) -> str:
    bounds = error.get("ctx", {})
    if "ge" in bounds:
        return f"an integer of at least {bounds['ge']}"
    if "le" in bounds:
        return f"an integer of at most {bounds['le']}"
    return KINDS.get(error["type"], "a value")


def _where(place: Sequence[str | int]) -> str:
    """Return a place such as axes.budget[1]."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in place]
    return "".join(parts).removeprefix(".")
