"""What documents and docstrings name is there: modules, names, scripts."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("ggl", "generators", "optimizers", "benchmarks", "docs", "tests")
FILES = [
    *ROOT.glob("*.md"),
    *(
        file
        for folder in FOLDERS
        for pattern in ("*.py", "*.md", "*.toml", "*.jinja")
        for file in sorted((ROOT / folder).rglob(pattern))
        if not any(parent.is_symlink() for parent in file.parents)
    ),
]


OTHERS = {"ggl.priors", "ggl.trackers", "ggl.run", "ggl.toml"}
"""Groups of entry points, a tag of trackers, a file."""

DESIGNED = {"ggl/gradients.py", "benchmarks/checks.py"}
"""What the first design had, named in the table of departures from it."""


def named(pattern: str) -> list[str]:
    """Return what a pattern's group finds in all documents and sources, each once."""
    found = {name for file in FILES for name in re.findall(pattern, file.read_text("utf-8"))}
    return sorted(found)


def resolve(name: str) -> object:
    """Return the module, or what a module has, of a dotted name."""
    parts = name.split(".")
    for k in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:k]))
        except ModuleNotFoundError:
            continue
        for part in parts[k:]:
            found = getattr(found, part)
        return found
    raise AssertionError(name)


@pytest.mark.parametrize("name", [name for name in named(r"`(ggl(?:\.\w+)+)[`(:]") if name not in OTHERS])
def test_a_dotted_name_is_there(name):
    assert resolve(name) is not None


@pytest.mark.parametrize("path", named(r"python (benchmarks/[\w/]+\.py|docs/[\w/]+\.py)"))
def test_a_script_is_there(path):
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("module", named(r"python -m (ggl[\w.]*\w)"))
def test_a_module_that_is_run_is_there(module):
    assert importlib.util.find_spec(module) is not None


@pytest.mark.parametrize("path", named(r"`((?:ggl|generators|optimizers|benchmarks|tests|docs)/[\w/.-]+\w)`"))
def test_a_path_is_there(path):
    assert (ROOT / path).exists() or (ROOT / f"{path}.py").is_file() or path in DESIGNED
