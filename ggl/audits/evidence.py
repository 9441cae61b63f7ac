"""Evidence of an audit: one archive whose members are known by their hashes and its figures by their values.

Members, beside pictures where these are kept:

- `manifest.json`: the SHA-256 of every other member but the next, and its own;
- `timing.json`: what differs from run to run, with a hash of its own;
- `run.json`: the command, its options, the hashes of its inputs and pictures, the machine;
- `result.json`: the figures, their settings and versions;
- `values.csv`: every value of the last two once more, so that what changed is named;
- `report.html`: the page.

Nothing is compressed and no time is kept: the same content is the same bytes.
"""

import csv
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ggl.base.archives import read_stored
from ggl.base.errors import InputError

__all__ = ["MANIFEST", "RESULT", "RUN", "Evidence", "content_of", "differences", "flatten", "read_evidence"]

Json: TypeAlias = Mapping[str, Any]

FORMAT = "ggl evidence 1"
MANIFEST, TIMING, RUN, RESULT = "manifest.json", "timing.json", "run.json", "result.json"
VALUES, PAGE = "values.csv", "report.html"
NEEDED = (MANIFEST, TIMING, RUN, RESULT, VALUES, PAGE)
COLUMNS = ("member", "path", "value")
NAMED = 12
"""Values of one member that are named one by one where they changed."""


@dataclass(frozen=True)
class Evidence:
    """What an audit leaves behind for others.

    Attributes:
        run: the command, options, inputs, pictures' hashes and machine.
        result: the content of `result.json`, its timing apart.
        page: the report.
        timing: of the run.
        pictures: their bytes by member's name; none where they are left out.
    """

    run: Json
    result: Json
    page: str
    timing: object
    pictures: Mapping[str, bytes]

    def pack(self) -> bytes:
        """Return the archive."""
        values = [(name, path, text) for name, of in self._json().items() for path, text in flatten(of)]
        members = {name: _written(of) for name, of in self._json().items()}
        members |= {VALUES: _table(values), PAGE: self.page.encode(), **self.pictures}
        hashes = {name: _sha256(content) for name, content in sorted(members.items())}
        manifest = {"format": FORMAT, "members": hashes}
        members[MANIFEST] = _written(_signed(manifest))
        members[TIMING] = _written(_signed({"timing": self.timing, "manifest": _sha256(members[MANIFEST])}))
        return packed(members)

    def _json(self) -> dict[str, Json]:
        return {RUN: self.run, RESULT: self.result}


def packed(members: Mapping[str, bytes]) -> bytes:
    """Return a zip of members, the manifest first, then by name."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for name in sorted(members, key=lambda name: (name != MANIFEST, name)):
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            file.writestr(entry, members[name])
    return archive.getvalue()


def read_evidence(path: str | Path) -> dict[str, bytes]:
    """Return the members of an evidence file; nothing is unpacked and nothing checked but that it is one.

    Raises:
        InputError: it cannot be read, is no archive of uncompressed members, or holds no evidence.
    """
    members = read_stored(path)
    if not {MANIFEST, RUN, RESULT} & {*members}:
        raise InputError(f"{path}: expected a file of `ggl audit --evidence`, found {_listed(members)}")
    return members


def content_of(members: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """Return what a member holds as JSON.

    Raises:
        InputError: it is not there, or holds no JSON object of finite numbers.
    """
    if name not in members:
        raise InputError(f"{name} is missing")
    try:
        found = json.loads(members[name], parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: expected JSON, found something else ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{name}: expected a JSON object, found {type(found).__name__}")
    return found


def differences(path: str | Path, members: Mapping[str, bytes]) -> list[str]:
    """Return a line for everything in which an evidence file is not as it was packed, by its name.

    Args:
        path: of the file.
        members: of it, as `read_evidence` gives them.
    """
    found = _against_manifest(members) if MANIFEST in members else []
    named = {line.partition(":")[0] for line in found}
    found += [f"{name}: missing" for name in NEEDED if name not in {*members, *named}]
    found += _against_values(members)
    if TIMING in members:
        found += _timing(members)
    if not found and packed(members) != Path(path).read_bytes():
        found.append("the archive: packed anew, or with something beside its members")
    return found


def flatten(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and the JSON text of every value that holds no other.

    >>> [*flatten({"a": [1, {"b": None}]})]
    [('a[0]', '1'), ('a[1].b', 'null')]
    """
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            step = key if re.fullmatch(r"[^.\[\]]+", key) else f"[{json.dumps(key)}]"
            yield from flatten(inner, f"{path}.{step}" if path and not step.startswith("[") else path + step)
    elif isinstance(value, list | tuple) and value:
        for k, inner in enumerate(value):
            yield from flatten(inner, f"{path}[{k}]")
    else:
        yield path, json.dumps(value, allow_nan=False)


def _against_manifest(members: Mapping[str, bytes]) -> list[str]:
    """Return what the manifest says otherwise."""
    try:
        manifest = content_of(members, MANIFEST)
    except InputError as error:
        return [str(error)]
    lines = [] if _is_signed(manifest) else [f"{MANIFEST}: changed since it was written"]
    if manifest.get("format") != FORMAT:
        lines.append(f"{MANIFEST}: expected the format {FORMAT!r}, found {manifest.get('format')!r}")
    known = manifest.get("members")
    if not isinstance(known, dict):
        return [*lines, f"{MANIFEST}: expected the members' hashes, found none"]
    others = {name: _sha256(content) for name, content in members.items() if name not in (MANIFEST, TIMING)}
    added = {name: digest for name, digest in others.items() if name not in known}
    for name, digest in known.items():
        renamed = next((new for new, other in added.items() if other == digest), None)
        if name in others and others[name] != digest:
            lines.append(f"{name}: changed, its SHA-256 is not the manifest's")
        elif name not in others and renamed is not None:
            lines.append(f"{name}: renamed, it is {renamed} now")
            del added[renamed]
        elif name not in others:
            lines.append(f"{name}: missing")
    return [*lines, *(f"{name}: added, the manifest does not name it" for name in added)]


def _against_values(members: Mapping[str, bytes]) -> list[str]:
    """Return the values that are not what the table of values says."""
    try:
        table = _read_table(members[VALUES]) if VALUES in members else None
    except (ValueError, csv.Error) as error:
        return [f"{VALUES}: expected a table of {', '.join(COLUMNS)}, found something else ({error})"]
    lines = []
    for name in (RUN, RESULT):
        if name not in members:
            continue
        try:
            found = dict(flatten(content_of(members, name)))
        except (InputError, ValueError, RecursionError) as error:
            lines.append(str(error))
            continue
        if table is not None:
            lines += _changed(name, found, table.get(name, {}))
    return lines


def _changed(name: str, found: Mapping[str, str], noted: Mapping[str, str]) -> list[str]:
    paths = [path for path in {**noted, **found} if found.get(path) != noted.get(path)]
    nothing = "not there"
    lines = [
        f"{name}: {path} is {found.get(path, nothing)}, {VALUES} has {noted.get(path, nothing)}"
        for path in paths[:NAMED]
    ]
    return lines if len(paths) <= NAMED else [*lines, f"{name}: and {len(paths) - NAMED} values more"]


def _timing(members: Mapping[str, bytes]) -> list[str]:
    try:
        timing = content_of(members, TIMING)
    except InputError as error:
        return [str(error)]
    if not _is_signed(timing):
        return [f"{TIMING}: changed since it was written"]
    if MANIFEST in members and timing.get("manifest") != _sha256(members[MANIFEST]):
        return [f"{TIMING}: of another manifest"]
    return []


def _table(rows: list[tuple[str, str, str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([COLUMNS, *rows])
    return text.getvalue().encode()


def _read_table(content: bytes) -> dict[str, dict[str, str]]:
    """Return the text of every value by member and path."""
    head, *rows = csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
    if tuple(head) != COLUMNS:
        raise ValueError(f"the columns {', '.join(head)}")
    table: dict[str, dict[str, str]] = {}
    for member, path, value in rows:
        table.setdefault(member, {})[path] = value
    return table


def _written(value: object) -> bytes:
    return json.dumps(value, indent=1, allow_nan=False).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _signed(value: Json) -> dict[str, Any]:
    """Return a JSON object with the hash of what else it holds."""
    return {**value, "sha256": _sha256(_written(value))}


def _is_signed(value: Json) -> bool:
    return _signed({key: of for key, of in value.items() if key != "sha256"}) == value


def _refuse(constant: str) -> None:
    raise ValueError(f"the number {constant}")


def _listed(members: Mapping[str, bytes]) -> str:
    names = sorted(members)
    return ", ".join([*names[:5], *(["..."] if len(names) > 5 else [])]) or "nothing"
