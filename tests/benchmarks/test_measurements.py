"""What reproductions measure beside sweeps: trainings, ε, cosines and influences, at tiny sizes."""

import csv
import json
import math
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ggl.base.errors import InputError
from ggl.base.processes import in_one_line
from ggl.benchmarks.reproduce.file import parse_reproduction
from ggl.benchmarks.reproduce.groups import groups_of_plan
from ggl.benchmarks.reproduce.measurements.trainings import TUNING_SEED
from ggl.benchmarks.reproduce.measuring import Measured, measure, rows_as_csv
from ggl.benchmarks.reproduce.page import page_of
from ggl.benchmarks.reproduce.plan import Overrides, plan_of
from ggl.benchmarks.reproduce.run import check_files, judged, lacking
from ggl.benchmarks.sweeps.engines import Failure
from ggl.costs.accounting import spending
from ggl.defenses import load_defense

FILE = """
name = "x"
title = "t"
source = "s"
settings = []
[scales.small]
about = "a"
files = [{ path = "data.npz", source = "somewhere", optional = true }]
[scales.small.measured.training]
kind = "trainings"
victim = "mlp"
data = "{files}/data.npz"
defense = ["none", "noise:10000"]
learning_rate = [0.001, 0.1]
rounds = 30
seeds = 2
clients = 2
at = { start = 0.0, end = 1.0 }
keep = true
[scales.small.measured.privacy]
kind = "spendings"
defense = ["fed-cdp:4,6"]
layers = [1, 3]
accountant = ["rdp"]
rounds = 100
sample_rate = 0.01
delta = 1e-5
[scales.small.measured.agreement]
kind = "cosines"
victim = ["mlp"]
defense = ["precode"]
data = "fashion-mnist-heldout"
images = 2
draws = 3
[scales.small.measured.agreement.layer."mlp/precode"]
first = "body.1"
last = "fc.layer"
[scales.small.measured.influence]
kind = "influences"
victim = ["mlp"]
data = "fashion-mnist-heldout"
defense = ["noise:0.01", "noise:0.02"]
images = 2
exact = false
[scales.small.measured.trained]
kind = "influences"
victim = ["mlp"]
data = "fashion-mnist-heldout"
defense = ["noise:0.01"]
images = 2
exact = false
state = { end = "{training}/0-0-end.safetensors" }
[scales.small.groups]
none = { measured = "training", defense = "none", at = "end" }
noise = { measured = "training", defense = "noise:10000", at = "end" }
before = { measured = "training", defense = "none", at = "start" }
nominal = { measured = "privacy", layers = 1 }
honest = { measured = "privacy", layers = 3 }
first = { measured = "agreement", layer = "first" }
last = { measured = "agreement", layer = "last" }
all = { measured = "influence" }
weak = { measured = "influence", defense = "noise:0.01" }
strong = { measured = "influence", defense = "noise:0.02" }
trained = { measured = "trained" }
[scales.paper]
about = "b"
[[claims]]
id = "c"
place = "p"
statement = "training works"
reported = [{ what = "no defense", figure = "accuracy", value = "0.5", small = "none" }]
[claims.small]
checks = [
    { rule = "better", a = "none", b = "before", metric = "accuracy" },
    { rule = "better", a = "nominal", b = "honest", metric = "epsilon" },
]
[claims.paper]
not_testable = "no reason"
"""


class HereEngine:
    """Computes tasks in this process, one after the other."""

    slots = 2

    def __init__(self):
        self.tasks, self.ran = [], []

    def submit(self, task, function, *arguments):
        self.tasks.append((task, function, arguments))

    def wait(self):
        task, function, arguments = self.tasks.pop()
        self.ran.append(arguments[0].function.__name__)
        try:
            return [(task, function(*arguments))]
        except Exception as error:  # noqa: BLE001
            return [(task, Failure(in_one_line(error)))]

    def close(self):
        pass


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a folder with a data set made of the embedded images."""
    from ggl.datasets.loading import load_dataset

    folder = tmp_path_factory.mktemp("files")
    data = load_dataset("fashion-mnist-heldout")
    images, labels = (255 * data.images[:, 0]).round().numpy().astype(np.uint8), data.labels.numpy()
    parts = {"train": slice(0, 800), "test": slice(800, None)}
    arrays = {f"{name}_images": images[part] for name, part in parts.items()}
    arrays |= {f"{name}_labels": labels[part] for name, part in parts.items()}
    np.savez(folder / "data.npz", **arrays)
    return folder


def planned(files, out, text=FILE, **options):
    known = parse_reproduction(text, "x.toml")
    scale = known.at("small")
    return plan_of(known, "small", files, out=out, lacking=lacking(scale, files), **options)


def made(plan, engine=None, note=lambda _: None):
    return measure(plan.measured, plan.folders, engine or HereEngine(), note)


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    """Return the plan of one whole run with what it measured and what was noted."""
    plan, notes = planned(files, tmp_path_factory.mktemp("run")), []
    return plan, made(plan, note=notes.append), notes


def groups(run):
    plan, measured, _ = run
    return groups_of_plan(plan, [], measured)


def test_nothing_fails_and_every_job_is_noted(run):
    _, measured, notes = run
    assert measured.failures == []
    assert notes[3] == "training: 4 of 4"  # learning rates first
    assert notes[7] == "training: 4 of 4"  # then seeds
    assert notes[-1] == "trained: 1 of 1"
    assert measured.commits
    assert all(seconds > 0 for seconds in measured.seconds.values())


def test_each_defense_trains_at_the_rate_that_validation_chose(run):
    plan, measured, _ = run
    tuning = [row for row in measured.rows["training"] if row.unit == TUNING_SEED]
    assert len(tuning) == 4
    for name in ("none", "noise:10000"):
        tried = {
            r.keys["learning_rate"]: r.figures["validation"] for r in tuning if r.keys["defense"] == name
        }
        best = min(rate for rate in tried if tried[rate] == max(tried.values()))
        used = {
            row.figures["learning_rate"]
            for row in measured.rows["training"]
            if row.unit != TUNING_SEED and row.keys["defense"] == name
        }
        assert used == {best}
    assert groups(run)["none"].n == plan.measured["training"].units() == 2


def test_trainings_train_and_noise_hinders_them(run):
    known = groups(run)
    accuracy = {name: list(known[name].values("accuracy").values()) for name in ("none", "noise", "before")}
    assert min(accuracy["none"]) > max(*accuracy["noise"], *accuracy["before"]) + 0.2
    assert set(known["none"].values("rounds_done").values()) == {30}


def test_states_are_kept_for_those_who_build_on_them(run):
    plan, _, _ = run
    folder = Path(plan.folders["training"])
    names = {path.name for path in folder.glob("*.safetensors")}
    assert names == {
        f"{number}-{seed}-{at}.safetensors" for number in (0, 1) for seed in (0, 1) for at in ("start", "end")
    }
    before, after = groups(run)["weak"].values("bound"), groups(run)["trained"].values("bound")
    assert before.keys() == after.keys()
    assert before != after


def test_epsilon_is_that_of_the_accountant(run):
    for name, layers in (("nominal", 1), ("honest", 3)):
        expected = spending(
            load_defense("fed-cdp:4,6"), layers=layers, rounds=100, sample_rate=0.01, delta=1e-5
        ).epsilon
        assert groups(run)[name].values("epsilon") == {0: expected}


def test_layers_before_the_bottleneck_agree_and_those_after_it_do_not(run):
    known = groups(run)
    assert min(known["first"].values("cosine").values()) > 0.5
    assert max(known["last"].values("cosine").values()) < 0.5


def test_influence_grows_with_the_noise(run):
    known = groups(run)
    weak, strong, both = (known[name].values("bound") for name in ("weak", "strong", "all"))
    for image in weak:
        assert strong[image] > 1.5 * weak[image] > 0
        assert both[image] == pytest.approx((weak[image] + strong[image]) / 2)


def test_what_is_kept_is_not_computed_again(run, files):
    plan, measured, _ = run
    engine = HereEngine()
    again = made(plan, engine)
    assert engine.ran == []
    assert again.rows == measured.rows
    assert again.seconds == measured.seconds


def test_a_killed_run_goes_on_and_ends_the_same(run, files, tmp_path):
    plan, measured, _ = run
    other = planned(files, tmp_path)
    for job in sorted(Path(plan.folders["training"]).iterdir()):
        if random.Random(job.name).random() < 0.5:
            place = Path(other.folders["training"]) / job.name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(job.read_bytes())
    found = made(other)
    strip = lambda rows: [(row.keys, row.unit, row.figures) for row in rows]  # noqa: E731
    assert {name: strip(rows) for name, rows in found.rows.items()} == {
        name: strip(rows) for name, rows in measured.rows.items()
    }


def test_another_setting_is_another_folder_and_so_is_what_builds_on_it(run, files, tmp_path):
    plan = planned(files, tmp_path)
    other = planned(files, tmp_path, FILE.replace("rounds = 30", "rounds = 31"))
    changed = {name for name in plan.measured if plan.folders[name] != other.folders[name]}
    assert changed == {"training", "trained"}
    shorter = planned(files, tmp_path, overrides=Overrides(rounds=5))
    assert shorter.shortened
    assert shorter.measured["training"].rounds == 5
    assert planned(files, tmp_path, overrides=Overrides(images=1)).measured["training"].seeds == 1


def test_without_an_optional_file_its_claims_are_not_testable(tmp_path):
    scale = parse_reproduction(FILE, "x.toml").at("small")
    check_files(scale, None)
    plan = planned(None, tmp_path)
    assert list(plan.measured) == ["privacy", "agreement", "influence"]
    assert plan.missing == dict.fromkeys(("none", "noise", "before", "trained"), "needs data.npz: somewhere")
    measured = made(plan)
    findings = judged(plan, [], measured)
    assert [finding.outcome for finding in findings["c"]] == ["not testable", "holds"]
    page = page_of(plan, [], measured, findings)
    assert "- left out: needs data.npz: somewhere" in page
    assert "needs data.npz: somewhere |" in page


def test_the_page_begins_with_what_holds(run):
    plan, measured, _ = run
    page = page_of(plan, [], measured, judged(plan, [], measured))
    lines = page.splitlines()
    assert lines[0] == "# Reproduction: t"
    assert lines[2] == "- **Undecided:** training works ([c](#c))"  # of two seeds
    assert "| no defense | accuracy | 0.5 | 0." in page
    assert "- measured: training 12 rows, privacy 2 rows" in page
    assert page == page_of(plan, [], measured, judged(plan, [], measured))


def test_a_shortened_run_without_sweeps_has_a_page_that_claims_nothing(tmp_path):
    plan = planned(None, tmp_path, overrides=Overrides(rounds=2))
    page = page_of(plan, [], Measured(), judged(plan, [], Measured()))
    assert "**Shortened: fewer images, rounds or evaluations. No verdict is claimed.**" in page


def test_a_job_that_fails_stops_no_other_and_is_tried_again(files, tmp_path):
    text = FILE.replace('"precode"]', '"precode", "none"]').replace("images = 2\ndraws", "images = 1\ndraws")
    text = text.replace('layer = "first" }', 'layer = "first", defense = "precode" }')
    text = text.replace('layer = "last" }', 'layer = "last", defense = "precode" }')
    text += '\n[scales.small.measured.agreement.layer."mlp/none"]\nfirst = "nowhere"\n'
    plan = planned(None, tmp_path, text)
    measured = made(plan)
    (reason,) = measured.failures
    assert reason.startswith("agreement, mlp-none: ")
    assert "\n" not in reason
    assert len(measured.rows["agreement"]) == 2
    assert f"- failed: {reason}" in page_of(plan, [], measured, judged(plan, [], measured))
    engine = HereEngine()
    made(plan, engine)
    assert engine.ran == ["agreeing"]


def test_a_file_that_is_none_of_ours_is_named(run, files, tmp_path):
    plan = planned(None, tmp_path)
    place = Path(plan.folders["privacy"]) / "rdp.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps({"rows": 1}))
    with pytest.raises(InputError, match=r"rdp\.json: expected the rows of a measurement, found something"):
        made(plan)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'defense = "none", at = "end" }',
            'at = "end" }',
            "x.toml: scales.small.groups.none: expected one defense of none, noise:10000",
        ),
        ('layer = "first" }', 'layer = "frist" }', "no x.toml: scales.small.groups.first: layer is named"),
        ('measured = "privacy", layers = 1', 'measured = "privacy", layer = 1', "no x.toml: scales.small."),
        ('{ measured = "trained" }', '{ measured = "trainde" }', "no x.toml: scales.small.groups.trained: m"),
    ],
)
def test_groups_that_do_not_fit(old, new, message, tmp_path):
    assert old in FILE
    with pytest.raises(InputError) as error:
        planned(None, tmp_path, FILE.replace(old, new, 1))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('kind = "cosines"', 'kind = "sines"', "x.toml: scales.small.measured.agreement: "),
        (
            "sample_rate = 0.01\n",
            "",
            "x.toml: scales.small.measured.privacy.spendings.sample_rate: field req",
        ),
        ('metric = "epsilon"', 'metric = "epsilom"', "no x.toml: claim c, small: metric is named 'epsilom'"),
        (
            'b = "before", metric = "accuracy"',
            'b = "before", metric = "accuracy", trained = ["nominal"], floor = 0.5',
            "x.toml: claim c, small: expected groups of trainings in 'trained', found 'nominal'",
        ),
    ],
)
def test_files_that_do_not_fit(old, new, message):
    assert old in FILE
    with pytest.raises(InputError) as error:
        parse_reproduction(FILE.replace(old, new, 1), "x.toml")
    assert str(error.value).startswith(message)


def test_rows_are_written_as_a_table(run):
    _, measured, _ = run
    lines = rows_as_csv(measured.rows["training"]).splitlines()
    assert lines[0].split(",")[:4] == ["defense", "learning_rate", "at", "unit"]
    assert len(lines) == 13
    assert rows_as_csv([]) == "unit\n"
    assert isinstance(Measured().rows, dict)
    assert math.isfinite(measured.seconds["privacy"])


@pytest.mark.slow("a reproduction killed ten times, beside one that is not")
def test_precode_killed_at_ten_moments_ends_the_same(files, tmp_path):
    """Sweeps and trainings; all but times is the same to the byte."""
    brought = tmp_path / "files"
    brought.mkdir()
    (brought / "fashion-mnist.npz").write_bytes((files / "data.npz").read_bytes())
    command = [sys.executable, "-c", "from ggl.cli import main; main()", "reproduce", "precode"]
    command += ["--files", str(brought), "--images", "1", "--budget", "20", "--ceiling-budget", "20"]
    command += ["--rounds", "2", "--workers", "2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, "--out", str(whole)], check=True, capture_output=True)
    moments = random.Random(0)
    ended = 0
    for _ in range(10):
        resume = ["--resume"] if (killed / "store.sqlite").exists() else []
        process = subprocess.Popen(
            [*command, "--out", str(killed), *resume],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            process.wait(moments.uniform(4, 12))
            assert process.returncode == 0, process.stderr.read()
            ended += 1
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stderr.close()
    assert ended < 10
    subprocess.run([*command, "--out", str(killed), "--resume"], check=True, capture_output=True)
    assert figures(killed / "cells.csv") == figures(whole / "cells.csv")
    for name in ("accuracy-mlp", "accuracy-lenet"):
        assert figures(killed / f"{name}.csv") == figures(whole / f"{name}.csv")


def figures(path):
    """Return a table's rows without what may differ from run to run."""
    times = {"client_seconds", "round_seconds", "seconds", "peak_memory", "finished", "packed", "curve"}
    with path.open(newline="") as file:
        rows = [{k: v for k, v in row.items() if k not in times} for row in csv.DictReader(file)]
    assert rows
    return rows
