"""Processes that compute what they are told: what comes back, and what becomes of errors and deaths."""

import os
import signal

import pytest

from ggl.base.errors import InputError, UserCodeError, cause
from ggl.base.processes import Crew, HandOverError, Worker, WorkerDiedError, tell

pytestmark = pytest.mark.slow("starts worker processes")


class OwnError(Exception):
    """Can't be made again of its message alone, which is what pickle tries."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def act(what: str) -> object:
    if what == "tell":
        tell("half")
        return os.getpid()
    if what == "own":
        raise OwnError(1, 2)
    if what == "value":
        raise ValueError("no such value")
    if what == "input":
        raise InputError("of two\nlines")
    if what == "result":
        return lambda: 0
    os.kill(os.getpid(), signal.SIGKILL)
    return None


@pytest.fixture(scope="module")
def worker():
    crew = Crew()
    yield crew.start()
    crew.close()


def test_a_worker_gives_back_results_and_what_was_told_before(worker):
    heard = []
    process = worker.call(act, "tell", hear=heard.append)
    assert heard == ["half"]
    assert process not in (os.getpid(), worker.call(os.getppid))
    assert worker.call(os.getpid) == process


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ("value", ValueError, "no such value"),
        ("input", InputError, "of two\nlines"),
        ("own", UserCodeError, "OwnError: 1 and 2"),
    ],
)
def test_an_error_rises_here_as_it_did_there(worker, what, kind, message):
    with pytest.raises(kind) as raised:
        worker.call(act, what)
    assert str(raised.value) == message
    assert cause(raised.value).endswith(f"(test_processes.py, line {LINES[what]})")
    assert f"in act\n    raise {'OwnError' if what == 'own' else kind.__name__}" in str(
        raised.value.__cause__
    )


LINES = {"own": 26, "value": 28, "input": 30}


def test_what_cannot_be_pickled_is_told_apart_from_what_failed(worker):
    with pytest.raises(HandOverError, match="pickle"):
        worker.call(act, lambda: 0)
    with pytest.raises(HandOverError, match="pickle"):
        worker.call(act, "result")
    assert worker.call(os.getpid) > 0


def test_a_death_is_told_and_nobody_is_started_after_the_end():
    crew = Crew()
    worker = crew.start()
    with pytest.raises(WorkerDiedError, match="the worker died: killed, out of memory, or crashed"):
        worker.call(act, "die")
    crew.close()
    with pytest.raises(WorkerDiedError):
        crew.start()


def test_a_death_at_the_start_says_what_it_may_come_from():
    worker = Worker()
    worker.kill()
    with pytest.raises(InputError, match=r"or died as it did; name fewer with --workers .+ if __name__"):
        worker.call(os.getpid)
