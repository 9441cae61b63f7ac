"""Where packs are computed: processes of this machine here, a Ray cluster in `ray_engine`."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for
from typing import Any, Protocol, runtime_checkable

from ggl.base.errors import InputError

__all__ = ["Engine", "Failure", "LocalEngine", "in_one_line", "prepare_worker"]


@dataclass(frozen=True)
class Failure:
    """Why a task has no result, in one line."""

    reason: str


@runtime_checkable
class Engine(Protocol):
    """Takes tasks up to a number at once and gives back what became of them."""

    slots: int

    def submit(self, task: int, function: Callable[..., Any], *arguments: object) -> None:
        """Start a task; at most `slots` at once."""
        ...

    def wait(self) -> list[tuple[int, Any]]:
        """Return at least one task that has ended, with its result or a `Failure`."""
        ...

    def close(self) -> None:
        """Stop what is running and let go of every process."""
        ...


class LocalEngine:
    """Processes of this machine, one thread each, so that figures do not depend on how many they are.

    Every worker is a pool of its own: one that dies takes its own task with it and no other.
    """

    def __init__(self, workers: int) -> None:
        self.slots = workers
        self._idle: list[tuple[ProcessPoolExecutor, int]] = []
        self._running: dict[Future[Any], tuple[int, ProcessPoolExecutor, int]] = {}

    def submit(self, task: int, function: Callable[..., Any], *arguments: object) -> None:
        """Start a task."""
        pool, process = self._idle.pop() if self._idle else self._start()
        try:
            future = pool.submit(function, *arguments)
        except BrokenProcessPool:  # It died while it had nothing to do.
            pool.shutdown()
            self.submit(task, function, *arguments)
        else:
            self._running[future] = task, pool, process

    def wait(self) -> list[tuple[int, Any]]:
        """Wait for a task to end."""
        ended, _ = wait(self._running, return_when=FIRST_COMPLETED)
        return [self._take(future) for future in ended]

    def close(self) -> None:
        """Kill the workers; what they were at is lost."""
        every = [*self._idle, *((pool, process) for _, pool, process in self._running.values())]
        for pool, process in every:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            pool.shutdown(cancel_futures=True)
        self._idle, self._running = [], {}

    def _start(self) -> tuple[ProcessPoolExecutor, int]:
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(1, mp_context=context, initializer=_guard)
        try:
            return pool, pool.submit(os.getpid).result()
        except BrokenProcessPool:
            pool.shutdown()
            raise InputError(
                f"expected room for {self.slots} workers, but one died as it started; "
                "name fewer with --workers"
            ) from None

    def _take(self, future: Future[Any]) -> tuple[int, Any]:
        task, pool, process = self._running.pop(future)
        error = future.exception()
        if isinstance(error, BrokenProcessPool):
            pool.shutdown()
            return task, Failure("the worker died: killed, out of memory, or crashed")
        self._idle.append((pool, process))
        return task, future.result() if error is None else Failure(in_one_line(error))


def in_one_line(error: BaseException) -> str:
    """Return an error's kind and message in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def prepare_worker() -> None:
    """Keep a worker to one thread."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1)


def _guard() -> None:
    """Prepare a worker: one thread, deaf to Ctrl-C, and gone when its runner is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()
    prepare_worker()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)
