"""Audits by several processes: the same figures, errors in one line, and nobody left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import ggl
from ggl.attacks import jobs, workplace
from ggl.attacks.workplace import WorkersWarning, Workplace
from ggl.base.errors import InputError

CPU = torch.device("cpu")


@pytest.fixture
def at_once(monkeypatch):
    """Have other processes started at once."""
    monkeypatch.setattr(workplace, "PATIENCE", 0.0)


def audited(data, prior, victim, **options):
    report = ggl.audit(
        victim,
        data.images[:3],
        data.labels[:3],
        prior=prior,
        budget=options.pop("budget", 400),
        ceiling_budget=40,
        strategies=["cma-es"],
        **options,
    )
    result = report.to_dict()
    del result["timing"]
    return json.dumps(result)


def lenet():
    return ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32, seed=0)


@pytest.mark.slow("starts worker processes")
def test_results_are_the_same_by_one_two_and_three_processes(data, prior, at_once, monkeypatch):
    shared = []
    served = Workplace._served

    def counted(place, worker, begun, k):
        shared.append(k)
        return served(place, worker, begun, k)

    monkeypatch.setattr(Workplace, "_served", counted)
    stages = {}

    def progress(title, done, planned, loss):
        assert done <= planned
        stages[title] = done, planned

    found = [
        audited(
            data,
            prior,
            lenet(),
            workers=workers,
            defenses=["none", "noise:0.1"],
            budget=1000,
            progress=progress,
        )
        for workers in (1, 2, 3)
    ]
    assert shared
    assert found[0] == found[1] == found[2]
    assert set(stages) == {"ceiling", "none, adaptive, cma-es", "noise:0.1, adaptive, cma-es"}
    assert all(done == planned for done, planned in stages.values())


def test_jobs_follow_from_the_searches_and_the_device_alone():
    sizes = {n: [rows.stop - rows.start for rows in jobs._parts(n, CPU)] for n in (1, 3, 8, 24, 100)}
    assert sizes == {
        1: [1],
        3: [1, 1, 1],
        8: [2, 2, 2, 2],
        24: [4] * 6,
        100: [8] * 12 + [4],
    }
    assert jobs._parts(100, torch.device("cuda")) == [slice(0, 100)]


def test_what_cannot_be_handed_over_is_searched_by_one_process_which_says_so(data, prior):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1024, 10)

        def forward(self, x):
            return self.layer(x.flatten(1))

    torch.manual_seed(0)
    victim = Own()
    alone = audited(data, prior, victim, budget=32)
    with pytest.warns(WorkersWarning, match="by one process, not by 2: .+ pickle.+Own"):
        assert audited(data, prior, victim, budget=32, workers=2) == alone


def test_a_gpu_is_searched_by_one_process_and_numbers_of_workers_are_checked(monkeypatch):
    with pytest.warns(WorkersWarning, match="cuda is searched by one process, not by 3"):
        assert Workplace(3, torch.device("cuda"), None).workers == 1
    with pytest.raises(InputError, match="expected at least 1, found 0"):
        Workplace(0, CPU, None)
    monkeypatch.setattr("multiprocessing.parent_process", lambda: object())
    with pytest.raises(InputError, match='found 2; a script needs if __name__ == "__main__"'):
        Workplace(2, CPU, None)


def test_threads_are_as_they_were_afterwards(data, prior):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        audited(data, prior, lenet(), budget=32)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


OWN = """
import multiprocessing
from ggl.generators import load_prior

class Prior(type(load_prior("fashion-dcgan32"))):
    def decode(self, z, labels):
        if multiprocessing.parent_process() is not None:
            raise ValueError("only at home")
        return super().decode(z, labels)

def own():
    prior = load_prior("fashion-dcgan32")
    prior.__class__ = Prior
    return prior
"""


def command(folder: Path, *options: object, **how):
    arguments = ["--images", 4, "--budget", 4000, "--ceiling-budget", 40, "--strategy", "cma-es", *options]
    return subprocess.Popen(
        [sys.executable, "-m", "ggl.cli", "audit", "--out", folder, "--workers", "2", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(Path(ggl.__file__).parents[1])},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **how,
    )


@pytest.mark.slow("starts a worker process")
def test_code_that_raises_in_a_worker_ends_in_one_line(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    run = command(tmp_path / "out", "--prior", "mine:own", cwd=tmp_path)
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 2
    assert errors.count("\n") == 1
    assert "ValueError: only at home (mine.py, line 8)" in errors


def children_of(process):
    listed = [file.read_text() for file in Path(f"/proc/{process}/task").glob("*/children")]
    return [int(child) for child in " ".join(listed).split()]


def is_there(process):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


@pytest.mark.slow("starts a worker process")
def test_ctrl_c_leaves_no_process_and_checkpoints(tmp_path):
    run = command(tmp_path / "out", "--budget", 100_000, start_new_session=True)
    checkpoints = tmp_path / "out" / ".ggl-checkpoints"
    until = time.monotonic() + 300
    while len(list(checkpoints.glob("*.safetensors"))) < 2 or not children_of(run.pid):
        assert run.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    children = children_of(run.pid)
    os.killpg(run.pid, signal.SIGINT)
    printed, errors = run.communicate(timeout=60)
    assert run.returncode != 0
    assert "--resume goes on" in printed
    assert "Traceback" not in errors
    until = time.monotonic() + 30
    while any(map(is_there, children)):
        assert time.monotonic() < until, "a worker outlived its audit"
        time.sleep(0.05)
    assert list(checkpoints.glob("*.safetensors"))
