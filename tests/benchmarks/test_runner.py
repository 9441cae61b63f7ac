"""Sweeps are killed, fail, run twice at once: the store ends the same."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ggl.base.errors import InputError
from ggl.base.processes import Crew
from ggl.benchmarks.sweeps import runner
from ggl.benchmarks.sweeps.engines import Failure, LocalEngine
from ggl.benchmarks.sweeps.execute import PackOutcome, run_pack
from ggl.benchmarks.sweeps.records import CIRCUMSTANCES, Record
from ggl.benchmarks.sweeps.runner import missing_packs, run
from ggl.benchmarks.sweeps.spec import parse_spec
from ggl.benchmarks.sweeps.store import Store

SWEEP = """
name = "many"
images = 10
ceiling_budget = 8
[axes]
prior = "fashion-dcgan32"
victim = "mlp"
data = "fashion-mnist-heldout"
defense = ["none", "noise:0.001", "prune:0.9", "clip:1", "sign"]
strategy = ["random", "adam:starts=1", "sep-cma-es", "cma-es"]
budget = [16]
"""

TINY = """
name = "tiny"
images = 4
ceiling_budget = 8
pack = 2
[axes]
prior = "fashion-dcgan32"
victim = "mlp"
data = "fashion-mnist-heldout"
strategy = ["random", "cma-es"]
budget = 16
"""

COMMAND = [sys.executable, "-m", "ggl.cli", "bench"]


class Here:
    """An engine that computes when it is asked to wait, by functions that stand in for the real ones."""

    def __init__(self, slots=2, pack=run_pack):
        self.slots, self.pack, self.queue, self.ran = slots, pack, [], []

    def submit(self, task, function, *arguments):
        assert len(self.queue) < self.slots
        self.queue.append((task, function, arguments))

    def wait(self):
        ended, self.queue = self.queue, []
        return [(task, self._call(function, arguments)) for task, function, arguments in ended]

    def _call(self, function, arguments):
        if function is not run_pack:
            return function(*arguments)
        self.ran.append([cell.image for cell in arguments[0]])
        return self.pack(*arguments)

    def close(self):
        pass


def made(pack, *_):
    """Stand in for a pack's searches: figures that follow from the cell."""
    return PackOutcome(
        tuple(Record(cell, "ok", figures={"loss": cell.image / 2, "packed": len(pack)}) for cell in pack),
        {(cell.id, "attack"): np.full((1, 4, 4), 0.5, np.float32) for cell in pack},
    )


def sweep(text, folder, engine):
    """Run a sweep into a folder and return its records."""
    spec = parse_spec(text, "test")
    with Store(folder, create=True) as store:
        run(spec, store, engine, device="cpu", watch=lambda records: None)
        return store.records()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store of TINY, run without an interruption."""
    return sweep(TINY, tmp_path_factory.mktemp("whole"), Here())


def test_every_cell_of_a_sweep_is_measured(whole):
    spec = parse_spec(TINY, "test")
    assert {record.cell for record in whole} == set(spec.cells())
    assert {record.status for record in whole} == {"ok"}
    assert {record.spec for record in whole} == {spec.hash}
    for record in whole:
        assert record.figures["evaluations"] <= 16
        assert record.figures["attack_mse"] > 0
        assert record.figures["packed"] == 2
        assert record.figures["match_of_private"] == pytest.approx(0, abs=1e-5)
        assert record.curve[-1].mse == pytest.approx(record.figures["attack_mse"], rel=1e-4)
        assert record.private_image != record.sibling_image


def test_nothing_that_is_done_is_run_again(whole, tmp_path):
    engine = Here(pack=made)
    sweep(TINY, tmp_path, engine)
    assert sorted(engine.ran) == [[0, 1], [0, 1], [2, 3], [2, 3]]
    again = Here(pack=made)
    sweep(TINY, tmp_path, again)
    assert again.ran == []


def test_pictures_lie_beside_the_store(tmp_path):
    records = sweep(TINY, tmp_path, Here(pack=made))
    with Store(tmp_path) as store:
        assert all(store.picture(record.cell.id, "attack").is_file() for record in records)


def test_a_failing_cell_fails_alone(tmp_path):
    def fails_at_2(pack, *_):
        return Failure("GradientError: nothing") if any(c.image == 2 for c in pack) else made(pack)

    engine = Here(pack=fails_at_2)
    records = sweep(TINY.replace("pack = 2", "pack = 4"), tmp_path, engine)
    assert {r.cell.image: (r.status, r.reason) for r in records if r.cell.strategy == "random"} == {
        0: ("ok", ""),
        1: ("ok", ""),
        2: ("failed", "GradientError: nothing"),
        3: ("ok", ""),
    }
    assert {tuple(images) for images in engine.ran} == {(0, 1, 2, 3), (0, 1), (2, 3), (2,), (3,)}


@pytest.mark.parametrize("slots", [1, 2, 3, 5])
def test_packs_too_large_for_memory_are_halved_down_to_what_fits(slots, tmp_path):
    def fits(pack, *_):
        return made(pack) if len(pack) <= 2 else Failure("OutOfMemoryError: out of memory")

    engine = Here(slots, fits)
    text = TINY.replace("images = 4", "images = 9").replace("pack = 2", "pack = 9")
    records = sweep(text, tmp_path, engine)
    assert {record.status for record in records} == {"ok"}
    assert len(records) == 18
    assert max(record.figures["packed"] for record in records) == 2


def test_failed_cells_run_again_only_when_asked(tmp_path):
    sweep(TINY, tmp_path, Here(pack=lambda *_: Failure("RuntimeError: no")))
    idle = Here(pack=made)
    assert {record.status for record in sweep(TINY, tmp_path, idle)} == {"failed"}
    assert idle.ran == []
    with Store(tmp_path) as store:
        assert store.forget_failed() == 8
    assert {record.status for record in sweep(TINY, tmp_path, Here(pack=made))} == {"ok"}


def test_a_ceiling_that_fails_fails_its_cells(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "invert_images", lambda *_: Failure("InputError: no such prior"))
    records = sweep(TINY, tmp_path, Here(pack=made))
    assert {record.reason for record in records} == {"its ceiling failed: InputError: no such prior"}


def test_left_out_cells_are_recorded_with_their_reason(tmp_path):
    text = TINY + '[[exclude]]\nstrategy = "cma-es"\nreason = "takes too long"\n'
    records = sweep(text, tmp_path, Here(pack=made))
    assert {(r.cell.strategy, r.status, r.reason) for r in records} == {
        ("random", "ok", ""),
        ("cma-es", "skipped", "takes too long"),
    }


def test_what_another_runner_has_claimed_is_left_to_it(tmp_path):
    spec = parse_spec(TINY, "test")
    with Store(tmp_path, create=True) as other, Store(tmp_path) as store:
        first = missing_packs(spec, other)[0]
        assert other.claim(runner.name_of(first), [cell.id for cell in first])
        engine = Here(pack=made)
        run(spec, store, engine, device="cpu", watch=lambda records: None)
        assert len(engine.ran) == 3
        assert missing_packs(spec, store) == [first]


def known(record):
    """Return a record's figures, without those that are not at hand or differ from run to run."""
    figures = record.figures.items()
    return {name: value for name, value in figures if value is not None and name not in CIRCUMSTANCES}


def test_an_image_meets_the_same_draws_whatever_is_packed_beside_it(whole, tmp_path):
    records = sweep(TINY.replace("pack = 2", "pack = 4"), tmp_path, Here(slots=1))
    for one, other in zip(records, whole, strict=True):
        assert (one.private_image, one.sibling_image) == (other.private_image, other.sibling_image)
        assert known(one) == pytest.approx(known(other), rel=1e-3, abs=1e-5)


def fail(number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 2:
        raise InputError("of two\nlines")
    return number


@pytest.mark.slow("starts worker processes")
def test_local_workers_give_results_failures_and_survive_a_death():
    engine = LocalEngine(2)
    try:
        found = {}
        for task, number in enumerate((1, 2, 3, 4, 5)):
            if task >= engine.slots:
                found |= dict(engine.wait())
            engine.submit(task, fail, number)
        while len(found) < 5:
            found |= dict(engine.wait())
    finally:
        engine.close()
    assert found == {
        0: 1,
        1: Failure("InputError: of two lines"),
        2: Failure("the worker died: killed, out of memory, or crashed"),
        3: 4,
        4: 5,
    }


@pytest.mark.slow("starts worker processes")
def test_a_worker_that_died_while_idle_is_replaced():
    engine = LocalEngine(1)
    try:
        engine.submit(0, os.getpid)
        ((_, process),) = engine.wait()
        os.kill(process, signal.SIGKILL)
        while engine._idle[0].is_alive:  # until it has heard of it
            time.sleep(0.01)
        engine.submit(1, fail, 5)
        assert engine.wait() == [(1, 5)]
    finally:
        engine.close()


def test_a_worker_that_cannot_start_ends_in_one_line(monkeypatch):
    start = Crew.start

    def die_at_the_start(crew):
        worker = start(crew)
        worker.kill()
        return worker

    monkeypatch.setattr(Crew, "start", die_at_the_start)
    engine = LocalEngine(1)
    engine.submit(0, fail, 1)
    with pytest.raises(InputError, match=r"expected room for another worker, .+; name fewer with --workers"):
        engine.wait()
    engine.close()


def bench(*arguments, **options):
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments), "--tracker", "none"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **options,
    )


def done_in(folder):
    if not (folder / "store.sqlite").exists():
        return 0
    with Store(folder) as store:
        return len(store.statuses())


def children_of(process):
    listed = Path(f"/proc/{process}/task/{process}/children")
    return [int(child) for child in listed.read_text().split()]


def is_there(process):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """The folder of 200 cells, run without an interruption, and its spec's file."""
    folder = tmp_path_factory.mktemp("many")
    spec = folder / "many.toml"
    spec.write_text(SWEEP)
    assert bench("run", spec, "--store", folder / "whole", "--workers", 2).wait() == 0
    return folder


IN_PROCESS = """
import sys
from pathlib import Path
from test_runner import SWEEP, Here, sweep
from ggl.base.processes import prepare_worker
prepare_worker()
sweep(SWEEP, Path(sys.argv[1]), Here(slots=1))
"""


def without_workers(folder):
    """Go on with the 200 cells in one process, which starts in half the time."""
    return subprocess.Popen([sys.executable, "-c", IN_PROCESS, str(folder)], cwd=Path(__file__).parent)


@pytest.mark.slow("kills a sweep of 200 cells ten times")
def test_killed_at_ten_moments_and_resumed_the_store_is_the_same(many, tmp_path):
    folder = tmp_path / "killed"
    chance = random.Random(0)
    for kill in range(10):
        before = done_in(folder)
        first = bench("run", many / "many.toml", "--store", folder, "--workers", 2) if kill == 0 else None
        process = first or without_workers(folder)
        while done_in(folder) == before:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.5))
        workers = children_of(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert before < done_in(folder) < 200
        wait_for_the_end_of(workers)
    assert without_workers(folder).wait() == 0
    with Store(folder) as killed, Store(many / "whole") as whole:
        pairs = list(itertools.zip_longest(killed.records(), whole.records()))
    assert len(pairs) == 200
    assert all(a.measured() == b.measured() for a, b in pairs)


def wait_for_the_end_of(workers):
    until = time.monotonic() + 30
    while any(map(is_there, workers)):
        assert time.monotonic() < until, "a worker outlived its runner"
        time.sleep(0.05)


@pytest.mark.slow("runs a sweep of 200 cells twice")
def test_two_runners_of_one_store_share_its_cells(many, tmp_path):
    folder = tmp_path / "two"
    both = [bench("run", many / "many.toml", "--store", folder, "--workers", 1) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    with Store(folder) as store, Store(many / "whole") as whole:
        assert [r.measured() for r in store.records()] == [r.measured() for r in whole.records()]
