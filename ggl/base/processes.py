"""Processes of one thread each that compute what they are told."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from typing import Any, NoReturn

from ggl.base.errors import InputError, UserCodeError, place_elsewhere, users_line

__all__ = [
    "Crew",
    "HandOverError",
    "Worker",
    "WorkerDiedError",
    "in_one_line",
    "one_thread",
    "prepare_worker",
    "processors",
    "tell",
]


NO_ROOM = (
    "expected room for another worker, but one could not start, or died as it did; name fewer with --workers"
)


class WorkerDiedError(Exception):
    """A worker ended before its task did."""


class HandOverError(Exception):
    """A task, or its result, can't be taken from one process to another."""


class Worker:
    """A process of one thread that computes one call after another, for one thread here.

    It is deaf to Ctrl-C, and gone when the process that started it is.

    Raises:
        InputError: it can't be started.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs,), daemon=True)
        try:
            with _deaf():
                self._process.start()
        except OSError as error:
            raise InputError(f"{NO_ROOM} ({in_one_line(error)})") from error
        finally:
            theirs.close()
        self._is_ready = False

    @property
    def is_alive(self) -> bool:
        """Whether the process is there."""
        return self._process.is_alive()

    def call(
        self, function: Callable[..., Any], *arguments: object, hear: Callable[[Any], None] | None = None
    ) -> Any:
        """Return what a function returns there, or raise what it raises.

        Args:
            function: known by its module and name.
            arguments: what it is called with.
            hear: called with what it tells meanwhile (`tell`).

        Raises:
            HandOverError: function, arguments or result can't be pickled.
            InputError: the process died as it started.
            WorkerDiedError: it died at its work.
        """
        try:
            content = pickle.dumps((function, arguments))
        except Exception as error:
            raise HandOverError(in_one_line(error)) from error
        self.wait_until_ready()
        try:
            self._pipe.send_bytes(content)
            while (answer := pickle.loads(self._pipe.recv_bytes()))[0] == "told":  # noqa: S301
                if hear is not None:
                    hear(answer[1])
        except (EOFError, OSError) as error:
            raise WorkerDiedError("the worker died: killed, out of memory, or crashed") from error
        kind, value = answer
        if kind == "result":
            return value
        if kind == "raised":
            value.rise()
        raise HandOverError(value)

    def wait_until_ready(self) -> None:
        """Wait for the process to have started; it takes a second or two.

        Raises:
            InputError: it died.
        """
        if self._is_ready:
            return
        try:
            self._pipe.recv_bytes()
        except (EOFError, OSError) as error:
            raise InputError(
                f'{NO_ROOM} (a script needs if __name__ == "__main__": before what it runs)'
            ) from error
        self._is_ready = True

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.join()


class Crew:
    """Workers, until they are all sent home."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._workers: list[Worker] | None = []

    def start(self) -> Worker:
        """Return a new worker.

        Raises:
            WorkerDiedError: all have been sent home.
        """
        with self._lock:
            if self._workers is None:
                raise WorkerDiedError("no more work is given out")
            self._workers.append(Worker())
            return self._workers[-1]

    def close(self) -> None:
        """Kill every worker; what they were at is lost."""
        with self._lock:
            workers, self._workers = self._workers or [], None
        for worker in workers:
            worker.kill()


def in_one_line(error: BaseException) -> str:
    """Return an error's kind and message in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prepare_worker() -> None:
    """Keep a worker to one thread."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, as a worker does: how sums are rounded depends on how many there are."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def tell(message: object) -> None:
    """Have what a worker computes tell something to whoever called it; elsewhere nobody hears."""
    for pipe in _PIPES:
        pipe.send_bytes(pickle.dumps(("told", message)))


_PIPES: list[Connection] = []
"""In a worker, where its answers go."""


@dataclass(frozen=True)
class _Raised:
    """What a worker's task raised: the error, where it can be pickled, and how it would be shown there."""

    error: bytes | None
    line: str
    place: str | None
    trace: str

    def rise(self) -> NoReturn:
        """Raise it here."""
        error = UserCodeError(self.line) if self.error is None else pickle.loads(self.error)  # noqa: S301
        if self.place is not None:
            place_elsewhere(error, self.place)
        raise error from _TraceError(self.trace)


class _TraceError(Exception):
    """Shows the traceback of another process."""


def _raised(error: BaseException) -> _Raised:
    try:
        content = pickle.dumps(error)
        pickle.loads(content)  # noqa: S301
    except Exception:  # noqa: BLE001  errors with arguments of their own
        content = None
    return _Raised(content, in_one_line(error), users_line(error), "".join(traceback.format_exception(error)))


def _work(pipe: Connection) -> None:
    """Answer calls until nobody is there to call."""
    threading.Thread(target=_follow_parent, daemon=True).start()
    prepare_worker()
    _PIPES.append(pipe)
    pipe.send_bytes(b"ready")
    with contextlib.suppress(EOFError):
        while True:
            pipe.send_bytes(_answer(pipe.recv_bytes()))


def _answer(content: bytes) -> bytes:
    try:
        function, arguments = pickle.loads(content)  # noqa: S301
    except Exception as error:  # noqa: BLE001  of modules that are not here, anything
        return pickle.dumps(("unread", in_one_line(error)))
    try:
        result = function(*arguments)
    except BaseException as error:  # noqa: BLE001  which is raised where it was called
        return pickle.dumps(("raised", _raised(error)))
    try:
        return pickle.dumps(("result", result))
    except Exception as error:  # noqa: BLE001
        return pickle.dumps(("unread", in_one_line(error)))


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Have processes that are started here never hear of Ctrl-C, which is then heard here a little later."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # which would be started within, and hear again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
