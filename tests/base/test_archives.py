"""Members of archives are read by name; an archive that points outside itself is refused."""

import io
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
