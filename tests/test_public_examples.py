"""Every public name has an example, and it runs."""

import inspect
import subprocess
import sys

import pytest

import ggl

RUNNER = """
import doctest, importlib, inspect, sys, warnings
import ggl, torch

warnings.simplefilter("error")
failed = []
for name in ggl.__all__:
    example = doctest.DocTestParser().get_doctest(
        inspect.getdoc(getattr(ggl, name)), {"ggl": ggl, "torch": torch}, name, None, None
    )
    if name.startswith("register_") and name != "register_defense":
        continue
    if doctest.DocTestRunner().run(example).failed:
        failed.append(name)
sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
"""
"""What `ggl.register_*` say is one docstring, whose example registers a name once."""


@pytest.mark.parametrize("name", ggl.__all__)
def test_a_public_name_has_an_example(name):
    assert ">>> " in inspect.getdoc(getattr(ggl, name))


def test_the_examples_run(tmp_path):
    """In a process and a folder of their own: some write files, one registers a defense."""
    done = subprocess.run([sys.executable, "-c", RUNNER], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
