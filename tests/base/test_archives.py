"""Members of archives are read by name; an archive that points outside itself is refused."""

import io
import random
import tarfile
import zipfile

import pytest

from ggl.base.archives import read_members
from ggl.base.errors import WeightsError


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


both = pytest.mark.parametrize("write", [write_zip, write_tar])


@both
def test_members_are_read_by_name(tmp_path, write):
    path = write(tmp_path / "archive", {"a/b.bin": b"123", "a/c.bin": b"4", "other": b""})
    assert read_members(path, {"a/b.bin": 3, "a/c.bin": 1}) == {"a/b.bin": b"123", "a/c.bin": b"4"}


@both
@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "..\\evil", "c:\\evil"])
def test_an_archive_that_points_outside_itself_is_refused(tmp_path, write, name):
    path = write(tmp_path / "archive", {"a": b"1", name: b"2"})
    with pytest.raises(WeightsError, match="refused, it names the file"):
        read_members(path, {"a": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["archive"]


@both
@pytest.mark.parametrize(("name", "size", "found"), [("b", 1, "no such file"), ("a", 2, "1 bytes")])
def test_a_member_that_is_missing_or_of_another_size_is_refused(tmp_path, write, name, size, found):
    path = write(tmp_path / "archive", {"a": b"1"})
    with pytest.raises(WeightsError, match=f"expected {name} of {size} bytes in it, found {found}"):
        read_members(path, {name: size})


@both
def test_a_member_of_unknown_size_is_read(tmp_path, write):
    path = write(tmp_path / "archive", {"a": b"123"})
    assert read_members(path, {"a": None}) == {"a": b"123"}
    with pytest.raises(WeightsError, match="expected b in it, found no such file"):
        read_members(path, {"b": None})


def altered_zip(path, edits):
    """Return a deflated zip of one member with bytes set, by their place after the last such mark."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(range(256)) * 40)
    content = bytearray(path.read_bytes())
    for mark, place, values in edits:
        start = content.rfind(mark) + place
        content[start : start + len(values)] = values
    path.write_bytes(content)
    return path


LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"


@pytest.mark.parametrize(
    "edits",
    [
        [(LOCAL, 31, b"\xff" * 15)],
        [(LOCAL, 8, b"\x63"), (CENTRAL, 10, b"\x63")],
        [(LOCAL, 6, b"\x01"), (CENTRAL, 8, b"\x01")],
    ],
    ids=["bad deflate", "unknown method", "encrypted"],
)
def test_a_member_that_cannot_be_unpacked_is_refused(tmp_path, edits):
    path = altered_zip(tmp_path / "archive", edits)
    with pytest.raises(WeightsError, match=r"found a damaged one .*fetch it again"):
        read_members(path, {"a": 10240})


@pytest.mark.parametrize(("mode", "place"), [("w:gz", 10), ("w:bz2", 10_000), ("w:xz", 10_000)])
def test_an_altered_tar_is_refused(tmp_path, mode, place):
    noise = random.Random(0).randbytes(20_000)
    path = write_tar(tmp_path / "archive", {"a": noise}, mode)
    content = bytearray(path.read_bytes())
    content[place : place + 30] = b"\xff" * 30
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="found a damaged one"):
        read_members(path, {"a": len(noise)})


def test_a_link_is_no_member(tmp_path):
    path = tmp_path / "archive"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("a")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(member)
    with pytest.raises(WeightsError, match="no such file"):
        read_members(path, {"a": 0})


@both
def test_a_cut_archive_is_refused_or_loses_its_end_only(tmp_path, write):
    content = bytes(range(256)) * 20
    path = write(tmp_path / "archive", {"a": content})
    whole = path.read_bytes()
    refused = 0
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        try:
            assert read_members(path, {"a": len(content)}) == {"a": content}
        except WeightsError:
            refused += 1
    assert refused > 5
