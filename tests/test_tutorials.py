"""The notebooks run, each within three minutes on two cores, and hold what they show."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "tutorials").glob("*.ipynb"))

SECONDS = 180
"""Of one cell: a test beside which others run takes longer than a reader does."""


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def test_the_notebooks_are_there():
    names = [path.stem for path in NOTEBOOKS]
    assert names == ["audit-an-update", "measure-a-leak", "two-defenses", "your-own-prior"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_pictures_and_no_error(path):
    """To look at before anything is installed, or on the site."""
    shown = outputs(nbformat.read(path, as_version=4))
    assert all(output.output_type != "error" for output in shown)
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert path.stat().st_size < 500_000


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    before = outputs(notebook)
    NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert len(outputs(notebook)) == len(before)
