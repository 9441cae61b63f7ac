"""What is installed: every package, under a name that is the project's own."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import metadata
from pathlib import Path

import pytest

from ggl.base.distribution import NAME, install_command

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TEXTS = (".py", ".pyi", ".md", ".toml", ".jinja", ".cff", ".yml")
NOT_OURS = {".venv", ".git", "build", "dist", "runs", "node_modules"}


def packages() -> set[str]:
    """Return every package of the tree, links not followed, but for the scripts that stay out."""
    found = set()
    for folder in ("ggl", "generators", "optimizers", "benchmarks"):
        for face in (ROOT / folder).rglob("__init__.py"):
            if not any(parent.is_symlink() for parent in face.parents):
                parts = face.parent.relative_to(ROOT).parts
                found.add(".".join(parts if parts[0] == "ggl" else ("ggl", *parts)))
    return found - {"ggl.benchmarks.studies", "ggl.benchmarks.tools"}


def test_the_wheel_names_every_package():
    assert {*PROJECT["tool"]["setuptools"]["packages"]} == packages()


def test_every_folder_with_code_is_a_package():
    for folder in ("ggl", "generators", "optimizers", "benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):
            assert (file.parent / "__init__.py").is_file(), file


def test_the_name_is_one():
    assert PROJECT["project"]["name"] == NAME == metadata(NAME)["Name"]


@pytest.mark.parametrize("folder", ["benchmarks", "generators", "optimizers"])
def test_a_layer_under_another_name_is_refused(folder):
    done = subprocess.run(
        [sys.executable, "-c", f"import {folder}.base"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.endswith(
        f"ImportError: expected import ggl.{folder}, found import {folder}: its classes would be others\n"
    )


def test_an_optional_package_is_asked_for_by_its_own_name():
    assert install_command("lpips") == 'pip install "lpips>=0.1.4"'
    assert install_command("jinja2", "matplotlib") == 'pip install "jinja2>=3.1" "matplotlib>=3.8"'


def test_nothing_tells_anyone_to_install_a_stranger():
    """The index has a `ggl` of somebody else's: no text may ask for it, nor for an extra of it."""
    wrong = re.compile(r"\b(pip|uv|tool|pipx) install[^\n]*[\s'\"]ggl\b(?![-/.])|\bggl\[\w+(,\w+)*\]")
    said = []
    for file in ROOT.rglob("*"):
        inside = file.relative_to(ROOT).parts
        if file.suffix in TEXTS and not NOT_OURS & {*inside} and file != Path(__file__):
            lines = file.read_text("utf-8", errors="replace").splitlines()
            said += [f"{file.relative_to(ROOT)}: {line}" for line in lines if wrong.search(line)]
    assert said == []
