"""`ggl audit --dry-run`: what the run would do and refuse, in words, and not a file."""

import json
import re

import pytest
from test_batch_statistics_option import capture
from test_cli import BAD

SMALL = ("--images", 2, "--budget", 32, "--ceiling-budget", 16, "--strategy", "random:population=16")


def files(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def number(pattern, text):
    return int(re.search(pattern, text)[1].replace(",", ""))


def test_its_numbers_are_those_of_the_result(ggl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ("--out", tmp_path / "out", *SMALL, "--defense", "none", "--defense", "clip:1+prune:0.9")
    code, output, errors = ggl("audit", *arguments, "--attacker", "naive", "--workers", 2, "--dry-run")
    assert (code, errors) == (0, "")
    assert files(tmp_path) == []
    said = " ".join(output.split())
    assert ggl("audit", *arguments, "--attacker", "naive", "--workers", 1)[0] == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    cells, settings = result["results"], result["settings"]
    assert number(r"cells: ([\d,]+);", said) == len(cells)
    spent = sum(3 * settings["images"] * cell["evaluations"] for cell in cells)
    assert number(r"; ([\d,]+) of the cells, controls included", said) == spent
    assert number(r"and ([\d,]+) of the ceiling", said) == settings["images"] * settings["ceiling_budget"]
    for cell in cells:
        assert re.search(
            rf"{re.escape(cell['defense'])} │ {cell['attacker']} │ {cell['strategy']} │ 6 │", said
        )
    assert re.search(r"time: about [\d.]+ s with 2 workers of one thread, from [\d.]+ s of work", said)
    assert re.search(
        r"memory: \d+\.\d GiB, the peak .*; 2 workers take about as much each, \d+\.\d GiB", said
    )
    assert "timed here and now" in said
    assert said.endswith("nothing was written")


@pytest.mark.parametrize(
    "case",
    ["unknown attacker", "budget below a generation", "too many images", "a gradient that is not finite",
     "a victim for another size", "a utility file that is not there", "a device that is not there"],
)  # fmt: skip
def test_it_refuses_what_the_run_refuses(ggl, tmp_path, monkeypatch, case):
    arguments, message = BAD[case](tmp_path)
    settings = [] if "--budget" in arguments else ["--budget", 32]
    code, _, errors = ggl("audit", "--out", tmp_path / "out", *settings, *arguments, "--dry-run")
    assert code == 2
    assert errors.count("\n") == 1
    assert re.search(message, errors), errors
    assert not (tmp_path / "out").exists()


def test_a_place_that_is_taken_is_refused(ggl, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "result.json").write_text("{}")
    code, _, errors = ggl("audit", "--out", tmp_path / "out", *SMALL, "--dry-run")
    assert code == 2
    assert "finished run already" in errors
    assert files(tmp_path / "out") == files(tmp_path / "out")[:1]


def test_a_ladder_says_which_rungs_are_run(ggl, tmp_path):
    arguments = ("--images", 1, "--victim", "mlp", "--ladder", "--budget", 24, "--ceiling-budget", 8)
    code, output, errors = ggl("audit", "--out", tmp_path / "out", *arguments, "--dry-run")
    assert (code, errors) == (0, "")
    said = " ".join(output.split())
    assert "the ladder: 11 rungs, 4 attacks to run; 9 searches" in said
    assert number(r"cells: ([\d,]+);", said) == 4
    assert not (tmp_path / "out").exists()


def test_a_captured_update_with_its_images_and_without(ggl, tmp_path, data):
    given = (*capture(tmp_path, data), "--budget", 32, "--strategy", "random:population=16", "--dry-run")
    truth = ("--truth", tmp_path / "truth.npz", "--ceiling-budget", 8)
    code, output, _ = ggl("audit", "--out", tmp_path / "out", *given, *truth)
    assert code == 0
    assert number(r"; ([\d,]+) of the cells, controls included", " ".join(output.split())) == 3 * 32
    code, output, _ = ggl("audit", "--out", tmp_path / "out", *given, "--private-labels", "0,1")
    assert code == 0
    assert f"evaluations: {13 * 32} at most, of 13 searches" in output
    assert not (tmp_path / "out").exists()
