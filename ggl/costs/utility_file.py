"""What defenses cost, as `ggl utility` measured it: read, checked, and put beside an audit's defenses."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ggl.base.errors import InputError
from ggl.defenses import defenses, load_defense

__all__ = ["costs_of", "read_utility"]

Json: TypeAlias = Mapping[str, Any]

SHARES = ("accuracy", "accuracy_kept", "undefended_accuracy")
KEPT = ("accuracy", "accuracy_kept", "client_bytes")
"""Of an entry of utility.json: its figures of accuracy, and what an audit's result keeps."""


def read_utility(source: str | Path | Mapping[str, object], victim: str) -> dict[str, Any]:
    """Return the content of a utility.json, or of a mapping like it, whose figures are known to be there.

    Raises:
        InputError: a file that cannot be read, content that `ggl utility` does not write, or trainings
            of another victim than the audit's; upper and lower case are one.
    """
    what = "utility" if isinstance(source, Mapping) else str(source)
    found = _load(what, source)
    if not isinstance(found, dict) or not isinstance(found.get("settings"), dict):
        raise _unexpected(what, '"settings" and "results"', found)
    if not isinstance(found.get("results"), list) or not found["results"]:
        raise _unexpected(what, '"settings" and "results"', found)
    for entry in found["results"]:
        _check(what, entry)
    trained = found["settings"].get("victim")
    if str(trained).casefold() != victim.casefold():
        raise InputError(
            f"{what}: expected trainings of the audit's victim {victim!r}, found {trained!r}; "
            "audit that victim, or run `ggl utility` with the audit's"
        )
    return found


def costs_of(utility: Json, names: Sequence[str]) -> dict[str, object]:
    """Return what an audit of the named defenses says of their utility, matched by their full names."""
    entries = {_full_name(entry["defense"]): entry for entry in reversed(utility["results"])}
    known = {name: entries[_full_name(name)] for name in names if _full_name(name) in entries}
    first = utility["results"][0]
    return {
        "settings": dict(utility["settings"]),
        "undefended_accuracy": first["undefended_accuracy"],
        "undefended_client_bytes": first["undefended_client_bytes"],
        "results": [{"defense": name, **{key: e[key] for key in KEPT}} for name, e in known.items()],
        "not_trained": [name for name in names if name not in known],
    }


def _load(what: str, source: str | Path | Mapping[str, object]) -> object:
    """Return a copy of what a file or a mapping holds."""
    try:
        if isinstance(source, Mapping):
            text = json.dumps(dict(source))
        else:
            text = Path(source).read_text(encoding="utf-8")
        found: object = json.loads(text)
        json.dumps(found, allow_nan=False)  # refuses what result.json could not hold
        return found
    except OSError as error:
        raise InputError(
            f"{what}: expected utility.json of `ggl utility`, but it cannot be read: {error.strerror}"
        ) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{what}: expected JSON as `ggl utility` writes it, found none: {error}") from error


def _check(what: str, entry: object) -> None:
    """Refuse an entry of the results that lacks a figure or holds one that means nothing."""
    sizes = ("client_bytes", "undefended_client_bytes")
    if not isinstance(entry, dict) or not isinstance(entry.get("defense"), str):
        raise _unexpected(what, '"defense" in every result', entry)
    name = entry["defense"]
    for key in SHARES:
        if not _is_interval(entry.get(key)):
            raise InputError(
                f'{what}: expected "{key}" of {name} to be mean, low and high in [-1, 1], '
                f"found {str(entry.get(key))[:60]}"
            )
    for key in sizes:
        if key not in entry or not (entry[key] is None or (_is_number(entry[key]) and entry[key] >= 0)):
            raise InputError(
                f'{what}: expected "{key}" of {name} to be at least 0, or null, '
                f"found {str(entry.get(key, 'nothing'))[:60]}"
            )


def _is_interval(value: object) -> bool:
    if not isinstance(value, dict) or not {"mean", "low", "high"} <= set(value):
        return False
    known = [value["mean"], *(value[key] for key in ("low", "high") if value[key] is not None)]
    return all(_is_number(x) and -1 <= x <= 1 for x in known)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _unexpected(what: str, expected: str, found: object) -> InputError:
    shown = ", ".join(map(str, found)) or "nothing" if isinstance(found, dict) else type(found).__name__
    return InputError(f"{what}: expected {expected} as `ggl utility` writes them, found {shown[:100]}")


def _full_name(name: str) -> str:
    """Return a defense's name with its numbers in their one form: "noise:5.0" is "noise:5".

    Names of the user's own code stay as they are: nothing is imported because a file says so.
    """
    if not all(part.strip().partition(":")[0] in defenses for part in name.split("+")):
        return name
    try:
        return load_defense(name).name
    except InputError:
        return name
