"""Where the tensors lie in what a file holds: state dicts and lists of arrays, under which entry."""

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ggl.base.errors import WeightsError
from ggl.base.stand_ins import StandIn, as_tensor

__all__ = ["Part", "named", "parts_of", "refusal", "selected"]

NUMBERED = re.compile(r"(?:arr_)?(\d+)")
"""Names of arrays that have none: of `np.savez(file, *arrays)`, and of lists kept as dictionaries."""

DEEPEST = 8
"""Entries within entries that are looked into."""

MOST_NAMED = 6
"""Entries that a message names."""


@dataclass(frozen=True)
class Part:
    """Tensors that lie together in a file.

    Attributes:
        entry: where, "optimizer.state"; empty for the file as a whole.
        tensors: by name; of a list by number, "0", "1", in order.
        listed: whether they have no names but their numbers.
        others: what lies beside them under names and is no tensor.
    """

    entry: str
    tensors: Mapping[str, Tensor]
    listed: bool = False
    others: Mapping[str, object] | None = None

    @property
    def place(self) -> str:
        """Return the entry in words for a message; nothing for the file as a whole."""
        return f"entry {self.entry!r}" if self.entry else ""


def parts_of(content: object) -> list[Part]:
    """Return every dictionary and list in what a file holds that has tensors in it, the outermost first."""
    found: list[Part] = []
    seen: set[int] = set()
    pending: deque[tuple[int, str, object]] = deque([(0, "", content)])
    while pending:
        depth, entry, value = pending.popleft()
        if id(value) in seen or depth > DEEPEST or not isinstance(value, dict | list | tuple):
            continue
        seen.add(id(value))
        items = {str(name): inner for name, inner in _items(value)}
        tensors = {name: tensor for name, inner in items.items() if (tensor := as_tensor(inner)) is not None}
        if tensors:
            others = {name: inner for name, inner in items.items() if name not in tensors}
            found.append(_part(entry, tensors, others))
        pending += [(depth + 1, f"{entry}.{name}".strip("."), inner) for name, inner in items.items()]
    return found


def _items(
    value: Mapping[object, object] | list[object] | tuple[object, ...],
) -> Iterator[tuple[object, object]]:
    return iter(value.items()) if isinstance(value, dict) else iter(enumerate(value))


def _part(entry: str, tensors: dict[str, Tensor], others: dict[str, object]) -> Part:
    numbers = [match and int(match[1]) for match in map(NUMBERED.fullmatch, tensors)]
    if None in numbers or sorted(numbers) != list(range(len(numbers))) or others:  # type: ignore[type-var]
        return Part(entry, tensors, False, others)
    in_order = dict(sorted(zip(numbers, tensors.values(), strict=True)))
    return Part(entry, {str(n): tensor for n, tensor in in_order.items()}, True)


def selected(path: str | Path, parts: list[Part], key: str | None) -> list[Part]:
    """Return the parts under an entry, or of each the tensors that a prefix begins; all without a key.

    Args:
        path: the file, for messages.
        parts: what it holds.
        key: an entry, "model" or "states.model"; or the beginning of tensors' names, "net" for "net.0.bias".

    Raises:
        WeightsError: there is nothing under that key.
    """
    if key is None:
        return parts
    key = key.strip(".")
    under = [part for part in parts if part.entry == key or part.entry.startswith(f"{key}.")]
    if under:
        return under
    begun = [
        Part(f"{part.entry}.{key.removeprefix(f'{part.entry}.')}".strip("."), tensors)
        for part in parts
        if (tensors := _begun(part, key))
    ]
    if begun:
        return begun
    raise WeightsError(
        f"{path}: expected an entry {key!r}, found {named(parts)}; name one of those with key="
    )


def _begun(part: Part, key: str) -> dict[str, Tensor]:
    """Return the tensors whose names a key begins, with or without the part's own entry before them."""
    prefix = f"{key}.".removeprefix(f"{part.entry}." if part.entry else "")
    return {name.removeprefix(prefix): part.tensors[name] for name in part.tensors if name.startswith(prefix)}


def named(parts: list[Part]) -> str:
    """Return the entries of a file in words; of a single state dict what its names begin with."""
    names = [part.entry for part in parts if part.entry]
    if not names:
        names = sorted({name.partition(".")[0] for part in parts for name in part.tensors})
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more or "none"


def refusal(path: str | Path, content: object) -> WeightsError:
    """Return the refusal of a file without tensors; it names an object that may hold them."""
    items = content.items() if isinstance(content, dict) else [("", content)]
    for name, value in items:
        if isinstance(value, StandIn):
            where = f" as entry {str(name)!r}" if name else ""
            kind = f"{type(value).__module__}.{type(value).__qualname__}"[:80]
            return WeightsError(
                f"{path}: expected tensors only, found{where} an object of class {kind!a}, which only its "
                "code could open; refused; save the network's own model.state_dict()"
            )
    return WeightsError(
        f"{path}: expected a state dict of tensors, found {type(content).__name__} without any"
    )
