"""`make demo TORCH_INDEX=...`: torch from the user's index, all else as locked, a failure in one line."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UV = """#!/bin/sh
echo "$*" >> calls
case "$*" in *--default-index*) [ -e no-torch ] && { echo "uv says a lot" >&2; exit 2; } ;; esac
exit 0
"""


def locked(text):
    """Return every locked package with its hashes."""
    stanzas = re.findall(r"^([\w.-]+)==[^\n]*\n((?: +--hash[^\n]*\n?)+)", text, re.M)
    return {name: hashes.count("--hash") for name, hashes in stanzas}


@pytest.fixture
def make(tmp_path):
    """Install by a uv that only notes what it is asked for; return what make says, and those calls."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "fake").mkdir()
    (tmp_path / ".venv").mkdir()
    for name, script in (("uv", UV), ("python", "#!/bin/sh\n"), ("ggl", "#!/bin/sh\necho ran $*\n")):
        (tmp_path / "fake" / name).write_text(script)
        (tmp_path / "fake" / name).chmod(0o755)

    def run(*arguments):
        told = subprocess.run(
            ["make", "demo", "PYTHON=true", "BIN=./fake", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={
                name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
            },
        )
        return told, (tmp_path / "calls").read_text().splitlines()

    return run


def test_everything_is_as_locked_where_no_index_is_named(make, tmp_path):
    told, calls = make()
    assert told.returncode == 0
    assert "ran demo" in told.stdout
    assert len(calls) == 2
    assert calls[0].endswith("--require-hashes -r requirements.lock")
    assert not (tmp_path / ".venv" / "without-torch.lock").exists()


@pytest.mark.parametrize(
    ("argument", "index"),
    [("CPU=1", "https://download.pytorch.org/whl/cpu"), ("TORCH_INDEX=file:///mine", "file:///mine")],
)
def test_torch_alone_is_of_the_index_that_is_named(make, tmp_path, argument, index):
    told, calls = make(argument)
    assert told.returncode == 0
    torch, rest, _ = calls
    lock = (tmp_path / "requirements.lock").read_text()
    wanted = [re.search(rf"^{name}==[\d.]+", lock, re.M)[0] for name in ("torch", "torchvision")]
    assert torch.endswith(f"--no-deps --default-index {index} {' '.join(wanted)}")
    assert rest.endswith("--no-deps --require-hashes -r .venv/without-torch.lock")
    every, kept = locked(lock), locked((tmp_path / ".venv" / "without-torch.lock").read_text())
    gone = {*every} - {*kept}
    assert gone >= {"torch", "torchvision", "triton"}
    assert all(re.match(r"(torch|torchvision|triton)$|nvidia-|cuda-", name) for name in gone)
    assert kept == {name: count for name, count in every.items() if name not in gone}
    assert len(kept) > 100


def test_an_index_without_it_is_one_line_and_no_installation(make, tmp_path):
    (tmp_path / "no-torch").touch()
    told, calls = make("TORCH_INDEX=file:///mine")
    assert told.returncode != 0
    ours = [line for line in told.stderr.splitlines() if not line.startswith("make: ***")]
    assert len(ours) == 1
    assert re.fullmatch(
        r"expected torch==[\d.]+ torchvision==[\d.]+ for this machine in TORCH_INDEX=file:///mine, found "
        r"none or no answer \(\.venv/torch\.log\): name another index, or leave CPU and TORCH_INDEX out",
        ours[0],
    )
    assert (tmp_path / ".venv" / "torch.log").read_text() == "uv says a lot\n"
    assert not (tmp_path / ".venv" / ".installed").exists()
    assert len(calls) == 1
