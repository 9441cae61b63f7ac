"""Which tensors of a file are which of a network's: entries, prefixes of wrappers, arrays without names."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ggl.base.errors import WeightsError
from ggl.base.packings import Part, parts_of, refusal, selected
from ggl.base.weights import load_state

__all__ = ["COUNTER", "Match", "match_file"]

WRAPPERS = frozenset({"module", "_module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""What data-parallel wrappers, Opacus, `torch.compile` and FSDP put into names, anywhere in them."""

COUNTER = "num_batches_tracked"
"""Batch normalization's count of batches: no gradient depends on it, and older files have none."""


@dataclass(frozen=True)
class Match:
    """A part of a file whose tensors are taken for a network's.

    Attributes:
        part: the state dict or the list.
        tensors: of the part, by the network's own names.
        others: what else holds tensors, by entry.
        taken_off: what stood before the names, or in them.
        left: names within the part that are not the network's, though they begin as its do.
        aside: names within the part that begin otherwise.
        order: whose order a list is taken to be in; empty for names.
    """

    part: Part
    tensors: dict[str, Tensor]
    others: tuple[str, ...] = ()
    taken_off: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()
    order: str = ""

    @property
    def key(self) -> str:
        """Return what selects this part and no other."""
        prefix = self.taken_off[-1] if self.taken_off and self.aside else ""
        return f"{self.part.entry}.{prefix}".strip(".")


def match_file(path: str | Path, network: nn.Module, key: str | None = None) -> Match:
    """Return the part of a file that holds a network's parameters, or comes nearest to it.

    Shapes decide between several such parts alone.

    Args:
        path: as `ggl.base.weights.load_state` reads it.
        network: whose names are looked for.
        key: an entry, or the beginning of the tensors' names, to look there and nowhere else.

    Raises:
        InputError: the file is of another kind.
        WeightsError: it cannot be read, holds no tensors, nothing under `key`, or several networks that fit.
    """
    content = load_state(path)
    parts = parts_of(content)
    if not parts:
        raise refusal(path, content)
    within = selected(path, parts, key)
    expected = network.state_dict()
    parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)} & expected.keys()
    tied = _tied(network)
    matches = [_with_tied(match, tied) for part in within for match in _by_name(part, expected, parameters)]
    full = [match for match in matches if parameters <= match.tensors.keys()]
    if not full:
        listed = [match for part in within if part.listed for match in _in_order(part, network)]
        full = [match for match in listed if len(match.tensors) == len(match.part.tensors)]
        matches = matches or listed
    if not full:
        empty = [Match(part, {}) for part in within]
        nearest = max(matches or empty, key=lambda match: (len(match.tensors), len(match.part.tensors)))
        if nearest.part.listed and not nearest.tensors:
            raise _other_count(path, nearest.part, network)
        return _among(nearest, parts)
    fitting = [match for match in full if _same_shapes(match, expected)] or full
    if any(not _equal(fitting[0].tensors, match.tensors) for match in fitting[1:]):
        names = ", ".join(repr(match.key) for match in fitting)
        raise WeightsError(
            f"{path}: expected one network with these names, found {len(fitting)}: {names}; name one by "
            f"key=, as in FILE,key={fitting[0].key}"
        )
    return _among(fitting[0], parts)


def _among(match: Match, parts: list[Part]) -> Match:
    by_size = sorted(parts, key=lambda part: -len(part.tensors))
    others = tuple(part.entry for part in by_size if part.entry not in ("", match.part.entry))
    return replace(match, others=others)


def _tied(network: nn.Module) -> list[list[str]]:
    """Return the names of parameters that have several."""
    names: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [same for same in names.values() if len(same) > 1]


def _with_tied(match: Match, tied: list[list[str]]) -> Match:
    """Return a match in which one name of a tied parameter is enough, as safetensors keeps them."""
    tensors = dict(match.tensors)
    for same in tied:
        given = next((tensors[name] for name in same if name in tensors), None)
        if given is not None:
            tensors |= {name: given for name in same if name not in tensors}
    return replace(match, tensors=tensors)


def _by_name(part: Part, expected: Mapping[str, Tensor], parameters: set[str]) -> Iterator[Match]:
    """Yield matches by the names as they are, under every beginning; then without what wrappers add."""
    for bare in (False, True):
        own = _renamed(expected, bare)
        given = _renamed(part.tensors, bare)
        wanted = [name for name, owner in own.items() if owner in parameters] or list(own)
        votes = Counter(prefix for name in wanted for prefix in _prefixes(given, name))
        most = max(votes.values(), default=0)
        prefixes = [prefix for prefix, count in votes.items() if count == most]
        if "" in prefixes:
            prefixes = [""]
        if most == len(wanted) or (bare and most):
            for prefix in prefixes:
                yield _match(part, own, given, prefix)
            return


def _renamed(names: Mapping[str, object], bare: bool) -> dict[str, str]:
    """Return names by what is left of each without wrappers' parts, where no two become one."""
    if bare:
        short = {".".join(p for p in name.split(".") if p not in WRAPPERS): name for name in names}
        if len(short) == len(names):
            return short
    return {name: name for name in names}


def _prefixes(given: Mapping[str, str], name: str) -> Iterator[str]:
    end = f".{name}"
    return (other[: -len(name)] for other in given if other == name or other.endswith(end))


def _match(part: Part, own: Mapping[str, str], given: Mapping[str, str], prefix: str) -> Match:
    tensors = {
        owner: part.tensors[given[prefix + name]] for name, owner in own.items() if prefix + name in given
    }
    rest = [name for name in given if name.removeprefix(prefix) not in own or not name.startswith(prefix)]
    wrapped = {p for full in given.values() for p in full.split(".")} - {
        p for short in given for p in short.split(".")
    }
    return Match(
        part,
        tensors,
        taken_off=(*(f"{p}." for p in sorted(wrapped)), *([prefix] if prefix else [])),
        left=tuple(given[name] for name in rest if name.startswith(prefix)),
        aside=tuple(given[name] for name in rest if not name.startswith(prefix)),
    )


def _in_order(part: Part, network: nn.Module) -> Iterator[Match]:
    """Yield what arrays without names may be: a whole state dict, one without counters, the parameters."""
    arrays = list(part.tensors.values())
    for order, names in _orders(network).items():
        if len(names) == len(arrays):
            yield Match(part, dict(zip(names, arrays, strict=True)), order=order)
            return


def _orders(network: nn.Module) -> dict[str, list[str]]:
    """Return the names that a list of arrays may be of, by what they are."""
    state, parameters = list(network.state_dict()), dict(network.named_parameters())
    return {
        "of the state dict": state,
        f"of the state dict without {COUNTER}": [name for name in state if not name.endswith(COUNTER)],
        "of the parameters": list(parameters),
        "of the parameters that are trained": [name for name, p in parameters.items() if p.requires_grad],
    }


def _other_count(path: str | Path, part: Part, network: nn.Module) -> WeightsError:
    """Return the refusal of a list of another number of arrays."""
    counts = {len(names): order for order, names in reversed(_orders(network).items())}
    known = ", or ".join(f"{count} in the order {counts[count]}" for count in sorted(counts, reverse=True))
    place = f"{part.place}: " if part.place else ""
    return WeightsError(
        f"{path}: {place}expected as many arrays as the network has: {known}; found {len(part.tensors)}; use "
        "the architecture that the file was made with"
    )


def _same_shapes(match: Match, expected: Mapping[str, Tensor]) -> bool:
    return all(tensor.shape == expected[name].shape for name, tensor in match.tensors.items())


def _equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[name].shape == b[name].shape and torch.equal(a[name], b[name]) for name in a
    )
