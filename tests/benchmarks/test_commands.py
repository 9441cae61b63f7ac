"""What `ggl bench`, `ggl report` and `ggl reproduce` print, and how they end."""

import csv
import json
import sys

import pytest
from test_runner import TINY, Here, made

from ggl.base.errors import InputError
from ggl.benchmarks import commands
from ggl.benchmarks.sweeps.engines import Failure
from ggl.cli import main

SPEC = TINY + '[[exclude]]\nstrategy = "cma-es"\nreason = "takes too long"\n'


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(SPEC)
    return path


@pytest.fixture
def ggl(monkeypatch, capsys):
    """Run a command line with packs made up; return its exit code and what it printed."""

    def run(*arguments, pack=made):
        engine = Here(pack=pack)
        monkeypatch.setattr(commands, "LocalEngine", lambda workers: engine)
        monkeypatch.setattr(sys, "argv", ["ggl", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return run


def test_a_sweep_is_run_looked_at_and_exported(ggl, spec, tmp_path):
    folder = tmp_path / "store"
    code, out, _ = ggl("bench", "run", spec, "--store", folder, "--tracker", "none")
    assert code == 0
    assert "4 ok, 0 failed, 4 skipped" in out
    code, out, _ = ggl("bench", "status", folder)
    assert "4 of 4 cells done" in out
    assert "skipped, 4 cells: takes too long" in out
    code, out, _ = ggl("bench", "export", folder, "--to", tmp_path / "cells.csv")
    with (tmp_path / "cells.csv").open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)].count("ok") == 4


def test_failed_cells_give_exit_code_1_and_run_again_when_asked(ggl, spec, tmp_path):
    folder = tmp_path / "store"
    code, out, _ = ggl(
        *("bench", "run", spec, "--store", folder, "--tracker", "none"), pack=lambda *_: Failure("no luck")
    )
    assert code == 1
    assert "failed, 4 cells: no luck" in out
    assert ggl("bench", "resume", folder, "--tracker", "none")[0] == 1
    code, out, _ = ggl("bench", "retry-failed", folder, "--tracker", "none")
    assert code == 0
    assert "4 failed cells are run again" in out
    assert "4 ok, 0 failed, 4 skipped" in out


def test_a_plan_runs_nothing(ggl, spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = ggl("bench", "plan", spec)
    assert code == 0
    assert "takes too long" in out
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.toml"]


def test_a_report_is_written_beside_the_store(ggl, spec, tmp_path):
    folder = tmp_path / "store"
    ggl("bench", "run", spec, "--store", folder, "--tracker", "none")
    assert ggl("report", folder)[0] == 0
    assert (folder / "report.html").stat().st_size > 10_000
    assert (folder / "tables" / "leak.csv").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bench", "run", "nothing.toml"), "nothing.toml: expected"),
        (("bench", "status", "nowhere"), "nowhere: expected a store (store.sqlite), found none"),
        (("bench", "resume", "nowhere"), "nowhere: expected a store (store.sqlite), found none"),
        (("bench", "export", "nowhere", "--to", "a.txt"), "a.txt: expected a name that ends in .csv or"),
        (("report", "nowhere"), "nowhere: expected a store (store.sqlite), found none"),
        (("reproduce", "ggi"), "did you mean 'ggl'?"),
        (("reproduce", "ggl", "--scale", "papr"), "did you mean 'paper'?"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(ggl, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = ggl(*arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_engine_or_tracker_is_refused_before_anything_runs(ggl, spec, tmp_path):
    for option, message in (
        ("--engine", "expected engine local or ray"),
        ("--tracker", "no tracker is named"),
    ):
        code, _, err = ggl("bench", "run", spec, "--store", tmp_path / "store", option, "slurm")
        assert code == 2
        assert message in err
    assert not (tmp_path / "store").exists()


def test_costs_of_another_victim_are_refused(ggl, spec, tmp_path):
    folder, costs = tmp_path / "store", tmp_path / "utility.json"
    share = {"mean": 0.5, "low": 0.4, "high": 0.6}
    entry = {"defense": "none", "accuracy": share, "accuracy_kept": share, "undefended_accuracy": share}
    entry |= {"client_bytes": 1, "undefended_client_bytes": 1}
    costs.write_text(json.dumps({"settings": {"victim": "vit"}, "results": [entry]}))
    ggl("bench", "run", spec, "--store", folder, "--tracker", "none")
    code, _, err = ggl("report", folder, "--utility", costs)
    assert code == 2
    assert "expected trainings of the audit's victim 'mlp', found 'vit'" in err
    with pytest.raises(InputError):
        commands.report(folder, None, tmp_path / "nothing.json")
