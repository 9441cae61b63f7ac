"""The same sweep on this machine's Ray as on its processes."""

import os
import signal

import pytest
from test_runner import TINY, sweep

from ggl.base.errors import InputError
from ggl.benchmarks.sweeps.engines import Failure, LocalEngine
from ggl.benchmarks.sweeps.ray_engine import RayEngine

pytest.importorskip("ray")
# Ray's own code: open sockets and logs at its end, and what it still calls in the standard library.
pytestmark = [
    pytest.mark.slow("starts a Ray cluster"),
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
    ),
]


@pytest.fixture(scope="module")
def engine():
    with pytest.MonkeyPatch.context() as patch:
        # Ray's workers are nice to all others, the other tests among them.
        patch.setenv("RAY_worker_niceness", "0")
        made = RayEngine(2)
    yield made
    made.close()


def test_tasks_give_results_and_failures(engine):
    def act(number):  # here, so that it is sent whole: workers cannot import tests
        if number == 1:
            raise InputError("of two\nlines")
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    found = {}
    for task in range(4):
        if task >= engine.slots:
            found |= dict(engine.wait())
        engine.submit(task, act, task)
    while len(found) < 4:
        found |= dict(engine.wait())
    assert (found[0], found[1], found[3]) == (0, Failure("InputError: of two lines"), 3)
    assert found[2].reason.startswith("the worker died: ")
    assert "\n" not in found[2].reason


def test_a_sweep_has_the_same_figures_as_on_local_processes(engine, tmp_path):
    on_ray = sweep(TINY, tmp_path / "ray", engine)
    local = LocalEngine(2)
    try:
        here = sweep(TINY, tmp_path / "local", local)
    finally:
        local.close()
    assert len(on_ray) == 8
    assert [record.measured() for record in on_ray] == [record.measured() for record in here]


def test_a_cluster_without_a_gpu_is_refused(engine):
    with pytest.raises(InputError, match="expected a Ray cluster with a GPU, found none"):
        engine.check("GPU")
