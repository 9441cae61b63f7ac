"""Commands that only answer import nothing heavy; imports resolve names when they are used."""

import subprocess
import sys

import pytest

import ggl
from ggl.benchmarks.speed.startup import COMPLETION, IMPORTS, STATEMENTS, heavy_after


@pytest.mark.parametrize("name", sorted({*STATEMENTS} - {*IMPORTS}))
def test_an_answer_imports_nothing_heavy(name):
    assert heavy_after(STATEMENTS[name]) == set()


def test_importing_ggl_imports_nothing_heavy():
    assert heavy_after("import ggl") == set()


def test_public_names_and_an_attack_bring_no_package_that_they_do_not_need():
    found = heavy_after(
        "import ggl; [getattr(ggl, name) for name in ggl.__all__]\n"
        "prior = ggl.load_prior('fashion-dcgan32'); ggl.load_defense('prune:0.9')\n"
        "ggl.load_strategy('cma-es', latent_dim=4, budget=10, seed=0)\n"
        "ggl.load_victim('lenet', in_channels=1, num_classes=10, image_size=32)"
    )
    assert found == {"torch", "numpy", "scipy"}


def test_a_shell_completes_names():
    done = subprocess.run([sys.executable, "-c", COMPLETION], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cma-es"]


def test_every_public_name_resolves_and_is_listed():
    assert sorted(ggl.__all__) == sorted(dir(ggl))
    assert all(callable(getattr(ggl, name)) for name in ggl.__all__)
    with pytest.raises(AttributeError):
        ggl.no_such_name  # noqa: B018
