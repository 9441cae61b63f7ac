"""Every public name has an example, and each example of a docstring runs."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import ggl

ROOT = Path(__file__).parents[1]

MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for file in (ROOT / "ggl").rglob("*.py")
    if not any(parent.is_symlink() for parent in file.parents) and ">>> " in file.read_text("utf-8")
) + sorted(
    f"ggl.{'.'.join(file.relative_to(ROOT).with_suffix('').parts)}"
    for folder in ("benchmarks", "generators", "optimizers")
    for file in (ROOT / folder).rglob("*.py")
    if ">>> " in file.read_text("utf-8")
)

RUNNER = """
import doctest, importlib, sys, warnings
import ggl, torch

warnings.simplefilter("error")
known = {"ggl": ggl, "torch": torch}
found = {
    name: doctest.testmod(importlib.import_module(name), extraglobs=known) for name in sys.argv[1:]
}
print(sum(result.attempted for result in found.values()))
failed = [name for name, result in found.items() if result.failed or not result.attempted]
sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
"""


@pytest.mark.parametrize("name", ggl.__all__)
def test_a_public_name_has_an_example(name):
    assert ">>> " in inspect.getdoc(getattr(ggl, name))


def test_the_examples_run(tmp_path):
    """In a process and a folder of their own: some write files, one registers a defense."""
    command = [sys.executable, "-c", RUNNER, *MODULES]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[-1]) > 3 * len(ggl.__all__)
