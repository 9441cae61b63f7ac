"""Every public signature's shapes are checked at run time while the tests run."""

import hypothesis
import pytest
from jaxtyping import install_import_hook

install_import_hook("ggl", "beartype.beartype")

# An example's time says more of what else the machine does than of the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture
def ggl(monkeypatch, capsys):
    """Run a command and return its exit code, its output and its errors."""
    from ggl import cli

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["ggl", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = capsys.readouterr()
        return stop.value.code or 0, printed.out, printed.err

    return run


@pytest.fixture(scope="session")
def data():
    """Return the embedded images."""
    from ggl.datasets.loading import load_dataset

    return load_dataset("fashion-mnist-heldout")


@pytest.fixture(scope="session")
def prior():
    """Return the embedded prior."""
    from ggl.generators import load_prior

    return load_prior("fashion-dcgan32")
