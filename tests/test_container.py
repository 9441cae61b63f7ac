"""The container file, read and not built: what it copies is there, and what it runs can be parsed."""

import fnmatch
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KNOWN = {"FROM", "ARG", "WORKDIR", "RUN", "COPY", "USER", "ENV", "ENTRYPOINT"}


def instructions(text):
    """Return a Dockerfile's instructions, each with its arguments; lines that go on are one."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines()]


def ignored(path, rules):
    """Say whether .dockerignore leaves a path out: the last rule that it meets decides."""
    found = False
    for rule in rules:
        name = rule.removeprefix("!")
        if name == "*" or path == name or path.startswith(f"{name}/") or fnmatch.fnmatch(path, name):
            found = not rule.startswith("!")
    return found


FILE = instructions((ROOT / "Dockerfile").read_text())
RULES = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
SOURCES = [
    source
    for name, arguments in FILE
    if name == "COPY" and not arguments.startswith("--from")
    for source in arguments.split()[:-1]
]


def of(name):
    return [arguments for found, arguments in FILE if found == name]


def test_instructions_are_known_and_stages_begin_with_a_pinned_base():
    assert {name for name, _ in FILE} <= KNOWN
    assert FILE[0][0] == "FROM"
    for base in of("FROM"):
        assert re.fullmatch(r"python:3\.\d+-slim-bookworm( AS \w+)?", base)
    versions = {base.split()[0] for base in of("FROM")}
    assert len(versions) == 1, "what was installed by one Python is run by another"


def test_the_base_is_a_python_that_the_project_takes():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = tuple(map(int, re.search(r"python:(\d+)\.(\d+)", of("FROM")[0]).groups()))
    assert found >= tuple(map(int, re.search(r"(\d+)\.(\d+)", project["requires-python"]).groups()))


@pytest.mark.parametrize("source", SOURCES)
def test_what_is_copied_is_there_and_sent_to_the_builder(source):
    assert (ROOT / source).exists()
    assert not ignored(source, RULES)


def test_what_the_wheel_is_made_of_is_copied():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {*project["tool"]["setuptools"]["package-dir"].values()}
    needed = {"pyproject.toml", "requirements.lock", *folders, project["project"]["readme"]}
    assert {*SOURCES} >= needed | {*project["project"]["license-files"]}


@pytest.mark.parametrize(
    "path", [".git", ".venv/bin/python", "runs/demo", "tests/conftest.py", "benchmarks/results/cpu"]
)
def test_what_a_container_needs_no_part_of_stays_out(path):
    assert ignored(path, RULES)


def test_a_stage_that_is_copied_from_was_named():
    stages = {match[1] for base in of("FROM") if (match := re.search(r" AS (\w+)", base))}
    wanted = {match[1] for copied in of("COPY") if (match := re.match(r"--from=(\w+)", copied))}
    assert wanted == stages == {"build"}


def test_what_it_runs_is_shell():
    for line in of("RUN"):
        subprocess.run(["sh", "-n", "-c", line], check=True)


def test_torch_comes_from_the_index_that_is_asked_for_and_the_rest_as_locked():
    assert of("ARG") == ["TORCH_INDEX=https://download.pytorch.org/whl/cpu"]
    torch, rest = [line for line in of("RUN") if "uv pip install" in line]
    assert '--no-deps --default-index "$TORCH_INDEX"' in torch
    script = re.search(r"\$\((sed .*)\)", torch)[1]
    found = subprocess.run(["sh", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [line.split("==")[0] for line in found.stdout.split()] == ["torch", "torchvision"]
    assert "--constraint requirements.lock" in rest
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {*re.search(r"\.\[(.*)\]", rest)[1].split(",")} <= {*extras}


def test_nobody_is_root_when_it_runs_ggl():
    names = [name for name, _ in FILE]
    assert of("USER") == ["ggl"]
    assert names.index("USER") > max(k for k, name in enumerate(names) if name == "RUN")
    assert json.loads(of("ENTRYPOINT")[0]) == ["ggl"]


def test_the_reader_of_the_file_joins_lines_and_leaves_comments_out():
    assert instructions("# a\nFROM x AS y\n\nRUN a \\\n    b\n") == [("FROM", "x AS y"), ("RUN", "a      b")]
    assert ignored("b/c", ["*", "!b", "b/c"])
    assert not ignored("b/d", ["*", "!b", "b/c"])
