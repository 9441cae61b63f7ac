"""Where packs are computed: processes of this machine here, a Ray cluster in `ray_engine`."""

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from ggl.base.processes import Crew, Worker, WorkerDiedError, in_one_line

__all__ = ["Engine", "Failure", "LocalEngine"]


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

    A worker that dies takes its own task with it and no other.
    """

    def __init__(self, workers: int) -> None:
        self.slots = workers
        self._crew = Crew()
        self._idle: list[Worker] = []
        self._threads = ThreadPoolExecutor(workers)
        self._running: dict[Future[Any], int] = {}

    def submit(self, task: int, function: Callable[..., Any], *arguments: object) -> None:
        """Start a task."""
        self._running[self._threads.submit(self._call, function, arguments)] = task

    def wait(self) -> list[tuple[int, Any]]:
        """Wait for a task to end."""
        ended, _ = wait(self._running, return_when=FIRST_COMPLETED)
        return [(self._running.pop(future), future.result()) for future in ended]

    def close(self) -> None:
        """Kill the workers; what they were at is lost."""
        self._crew.close()
        self._threads.shutdown(cancel_futures=True)
        self._idle, self._running = [], {}

    def _call(self, function: Callable[..., Any], arguments: tuple[object, ...]) -> Any:
        idle = self._idle.pop() if self._idle else None
        worker = idle if idle is not None and idle.is_alive else self._crew.start()
        worker.wait_until_ready()
        try:
            result = worker.call(function, *arguments)
        except WorkerDiedError as error:
            return Failure(str(error))
        except Exception as error:  # noqa: BLE001  a failed task stops no other
            result = Failure(in_one_line(error))
        self._idle.append(worker)
        return result
