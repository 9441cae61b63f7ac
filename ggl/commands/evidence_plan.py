"""What an audit was asked for, without this machine's paths; and back, with another machine's."""

import hashlib
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from ggl.base.errors import InputError
from ggl.base.files import sha256
from ggl.base.registry import unknown_name
from ggl.commands.audit_plan import AuditPlan

__all__ = [
    "InputFile",
    "check_names_alone",
    "command_of",
    "digest_of",
    "input_files",
    "options_of",
    "plain_name",
    "plan_of",
    "with_files",
]

PLACES = ("out",)
"""Fields of a plan that say where results go, and nothing of what they are."""

RENAMED = {
    "defenses": "--defense",
    "strategies": "--strategy",
    "attackers": "--attacker",
    "learning_rate": "--lr",
    "further_updates": "--update",
}
"""Options that are not named as their fields."""

WEIGHTS = ("victim_weights", "update", "further_updates", "update_difference")
SOURCES = ("data", "truth")
OTHERS = ("utility", "prior")
"""Fields that name files: FILE or FILE,key=ENTRY; images; a file; a name with files among its options."""

TORCHVISION = re.compile(r"(torchvision:[^:]*:)(.*)", re.S)
NUMBER = re.compile(r"[0-9.]+")


@dataclass(frozen=True)
class InputFile:
    """A file or folder that an audit reads.

    Attributes:
        name: by which it stands in evidence, of this audit's inputs it alone.
        text: by which it was given.
        sha256: of its bytes; of a folder, of every file's path in it and bytes; None of torchvision's folder,
            which may hold anything.
    """

    name: str
    text: str
    sha256: str | None


def input_files(plan: AuditPlan) -> list[InputFile]:
    """Return the files and folders that a plan names, in its order; what is not there is left out."""
    found: dict[str, InputFile] = {}

    def note(field: str, text: str) -> str:
        path = Path(text).expanduser()
        if text not in found and path.exists() and not NUMBER.fullmatch(text):
            names = {file.name for file in found.values()}
            digest = None if field == "torchvision" else digest_of(path)
            found[text] = InputFile(_unused(path, names), text, digest)
        return text

    _mapped(plan, note)
    return [*found.values()]


def with_files(plan: AuditPlan, files: Mapping[str, str]) -> AuditPlan:
    """Return a plan with other texts for its files, by those that it has."""
    return _mapped(plan, lambda _, text: files.get(text, text))


def check_names_alone(plan: AuditPlan) -> None:
    """Raise `InputError` where a plan out of evidence names files by more than their names."""

    def check(_: str, text: str) -> str:
        if os.sep in text or text.startswith("~"):
            raise InputError(f"expected files by their names alone, found {text!r}")
        return text

    _mapped(plan, check)


def options_of(plan: AuditPlan) -> dict[str, object]:
    """Return a plan as JSON, where results go apart."""
    return {
        field.name: _json(getattr(plan, field.name)) for field in fields(plan) if field.name not in PLACES
    }


def plan_of(options: Mapping[str, object], out: Path) -> AuditPlan:
    """Return the plan of options as `options_of` gives them.

    Raises:
        InputError: an option that is not known, or a value of another kind than the option's.
    """
    kinds = {name: kind for name, kind in get_type_hints(AuditPlan).items() if name not in PLACES}
    for name, value in options.items():
        if name not in kinds:
            raise unknown_name("option of an audit", name, list(kinds))
        if not _is_of(value, kinds[name]):
            raise InputError(f"{name}: expected {kinds[name]}, found {value!r}")
    missing = {field.name for field in fields(AuditPlan) if field.default is MISSING} - {*options, *PLACES}
    if missing:
        raise InputError(f"expected the option {min(missing)}, found none")
    return AuditPlan(**{name: _typed(value, kinds[name]) for name, value in options.items()}, out=out)


def command_of(plan: AuditPlan) -> str:
    """Return the command line that asks for a plan, quoted for a shell; its results go to "again"."""
    words = ["ggl", "audit", "--out", "again"]
    for field in fields(plan):
        value = getattr(plan, field.name)
        if field.name in PLACES or (field.default is not MISSING and value == field.default):
            continue
        option = RENAMED.get(field.name, "--" + field.name.replace("_", "-"))
        if field.name == "private_labels":
            words += [option, ",".join(map(str, value))]
        elif field.name == "update":
            words += [option, *map(str, value)]
        elif isinstance(value, bool):
            words.append(option)
        else:
            for one in value if isinstance(value, tuple) else (value,):
                words += [option, *map(str, one if isinstance(one, tuple) else (one,))]
    return shlex.join(words)


def _mapped(plan: AuditPlan, change: Callable[[str, str], str]) -> AuditPlan:
    """Return a plan with every text that may be a file's changed, told where it stands."""

    def changed(name: str, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, tuple):
            return tuple(changed(name, inner) for inner in value)
        text = str(value)
        if name == "prior":
            first, *others = re.split("([:,=])", text)
            return first + "".join(part if part in ":,=" else change(name, part) for part in others)
        if name in SOURCES and (parts := TORCHVISION.fullmatch(text)):
            return parts[1] + change("torchvision", parts[2])
        whole = change(name, text)
        if name in WEIGHTS and whole == text and not Path(text).exists():
            head, comma, rest = text.partition(",")
            whole = change(name, head) + comma + rest
        return Path(whole) if isinstance(value, Path) else whole

    names = (*WEIGHTS, *SOURCES, *OTHERS)
    return replace(plan, **{name: changed(name, getattr(plan, name)) for name in names})


def _unused(path: Path, names: set[str]) -> str:
    """Return a file's name, with a number before it where another input has it."""
    plain = path.resolve().name if path.name in ("", "..") else path.name
    name, k = plain, 1
    while name in names:
        k += 1
        name = f"({k}) {plain}"
    return name


def plain_name(name: str) -> str:
    """Return a file's own name of that by which it stands in evidence.

    >>> plain_name("(2) before.pt")
    'before.pt'
    """
    return re.sub(r"^\(\d+\) ", "", name)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, or of a folder's files: their paths in it and their bytes."""
    if path.is_file():
        return sha256(path)
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(
            f"{file.relative_to(path).as_posix()}\n{sha256(file)}\n".encode(errors="surrogateescape")
        )
    return digest.hexdigest()


def _json(value: object) -> object:
    if isinstance(value, tuple):
        return [_json(inner) for inner in value]
    return os.fspath(value) if isinstance(value, Path) else value


def _typed(value: object, kind: Any = None) -> Any:
    """Return a value out of JSON as a plan has it."""
    if isinstance(value, list):
        return tuple(_typed(inner) for inner in value)
    return Path(value) if isinstance(value, str) and {Path, str} & {*get_args(kind)} == {Path} else value


def _is_of(value: object, kind: Any) -> bool:
    """Say whether a value out of JSON is of an annotation's kind."""
    if get_origin(kind) in (Union, UnionType):
        return any(_is_of(value, inner) for inner in get_args(kind))
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        if not isinstance(value, list):
            return False
        if inner[-1] is Ellipsis:
            return all(_is_of(one, inner[0]) for one in value)
        return len(value) == len(inner) and all(_is_of(*pair) for pair in zip(value, inner, strict=True))
    if kind in (None, NoneType):
        return value is None
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is (str if kind is Path else kind)
