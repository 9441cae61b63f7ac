"""Names for things: registered here, brought by entry points, or given as `package.module:name`."""

import difflib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, Generic, TypeVar

from ggl.base.errors import InputError, UnknownNameError, UserCodeError, cause

__all__ = ["BROUGHT", "Registry", "import_object", "unknown_name"]

BROUGHT: list[str] = []
"""What was imported by `package.module:name` that is not ggl's: what goes wrong then may be its fault."""

ATTRIBUTE = re.compile(r"[A-Za-z_]\w*([:,]|$)")
"""A name behind the colon, where options would have a value."""


T = TypeVar("T")


class Registry(Generic[T]):
    """A table of names of one kind, extended by an entry-point group.

    Args:
        kind: what is registered, in the singular ("prior"), for messages.
        group: the entry-point group in which other packages register theirs ("ggl.priors").
        listed: entries that are imported when they are asked for and not before, by name: where each is,
            "package.module:name", and what it is, in a line.
    """

    def __init__(self, kind: str, group: str, listed: Mapping[str, tuple[str, str]] | None = None) -> None:
        self.kind, self.group = kind, group
        self._listed = dict(listed or {})
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers under `name`; a name that is taken is refused.

        Examples:
            >>> @ggl.register_defense("halve")
            ... class Halve(ggl.Defense):
            ...     name = "halve"
            ...     def protect(self, gradients, generator):
            ...         return {name: g / 2 for name, g in gradients.items()}
            >>> ggl.load_defense("halve+prune:0.9").name
            'halve+prune:0.9'
        """

        def decorate(entry: T) -> T:
            if name in self.names():
                raise InputError(f"the {self.kind} name {name!r} is taken already; choose another")
            self._entries[name] = entry
            return entry

        return decorate

    def names(self) -> list[str]:
        """Return every known name, sorted."""
        others = (point.name for point in entry_points(group=self.group))
        return sorted({*self._listed, *self._entries, *others})

    def summary(self, name: str) -> str:
        """Return what an entry is, in a line: as listed, else the first of its docstring."""
        if name in self._listed:
            return self._listed[name][1]
        return (inspect.getdoc(self[name]) or "").partition("\n")[0]

    def __contains__(self, name: object) -> bool:
        ours = name in self._listed or name in self._entries
        return ours or any(point.name == name for point in entry_points(group=self.group))

    def __getitem__(self, name: str) -> T:
        if name in self._entries:
            return self._entries[name]
        if name in self._listed:
            listed: T = import_object(self._listed[name][0], self.kind)
            return listed
        for point in entry_points(group=self.group):
            if point.name == name:
                BROUGHT.append(point.value)
                entry: T = point.load()
                return entry
        raise unknown_name(self.kind, name, self.names())

    def resolve(self, specification: str) -> tuple[T, str | None]:
        """Return the entry and the parameter text of `name:parameter` or `package.module:name:parameter`.

        After a name within a module, a comma does for the second colon.
        """
        self.check(specification)
        name, _, parameter = specification.partition(":")
        if name in self:
            return self[name], parameter or None
        end = min((place for place in map(parameter.find, ":,") if place >= 0), default=len(parameter))
        entry: T = import_object(f"{name}:{parameter[:end]}", self.kind)
        return entry, parameter[end + 1 :] or None

    def check(self, specification: str) -> None:
        """Raise `UnknownNameError` where a specification names nothing; what it names is not imported."""
        name, _, parameter = specification.partition(":")
        if name not in self and not (parameter and ("." in name or _is_module(name))):
            own = name.isidentifier() and ATTRIBUTE.match(parameter)
            neither = f"no module {name} is found from here to import" if own else ""
            raise unknown_name(self.kind, name, self.names(), neither)


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:
        return False


def unknown_name(kind: str, name: str, known: list[str], neither: str = "") -> UnknownNameError:
    """Return the error for a name that is not known, with the nearest one that is.

    Where it could have been something else, `neither` says that it is not that either.
    """
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UnknownNameError(
        f"no {kind} is named {name!r}; {hint}known: {', '.join(known)}{neither and f'; and {neither}'}"
    )


def import_object(path: str, kind: str) -> Any:
    """Import `package.module:name`, the user's own code, by the name that the user gave.

    What a module does to the global random streams as it is imported is undone.
    """
    module_name, _, attribute = path.partition(":")
    if module_name.startswith("."):
        raise UnknownNameError(f"{kind} {path!r}: expected package.module:name, found a relative name")
    try:
        module = sys.modules.get(module_name) or _import(module_name)
    except SyntaxError as error:
        raise UserCodeError(f"{kind} {path!r}: {module_name} cannot be imported ({error})") from error
    except ImportError as error:
        raise UnknownNameError(f"{kind} {path!r}: {module_name} cannot be imported ({error})") from error
    except Exception as error:
        raise UserCodeError(f"{kind} {path!r}: importing {module_name} raised {cause(error)}") from error
    if module_name.partition(".")[0] != "ggl":
        BROUGHT.append(path)
    if not hasattr(module, attribute):
        raise UnknownNameError(f"{kind} {path!r}: {module_name} has no {attribute!r}")
    return getattr(module, attribute)


def _import(name: str) -> ModuleType:
    if name.partition(".")[0] == "ggl":
        return importlib.import_module(name)
    from ggl.base.random import GlobalStreams  # which imports torch

    found = GlobalStreams()
    try:
        return importlib.import_module(name)
    finally:
        found.restore()
