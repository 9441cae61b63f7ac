"""Where searches are computed: in this process, and beside it in others, with one thread each."""

import multiprocessing
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

import torch

from ggl.attacks.course import SearchResult
from ggl.attacks.jobs import PAUSE, Computed, Job, pack, run_elsewhere
from ggl.attacks.stages import Stage
from ggl.base.errors import GradientError, InputError
from ggl.base.processes import Crew, HandOverError, Worker, WorkerDiedError

__all__ = ["Begun", "WorkersWarning", "Workplace"]

PATIENCE = 1.0
"""Seconds before other processes are started, which itself takes a second or two of a processor."""

T = TypeVar("T")

Message: TypeAlias = Callable[[], None]
"""What another thread has this one do."""


class WorkersWarning(UserWarning):
    """There are fewer processes than were asked for, and why."""


class Workplace:
    """Computes jobs in this process, and in others that take from the same row of jobs.

    What is computed does not depend on how many they are. The other processes are started when the first
    second is over and jobs are waiting.

    Args:
        workers: processes in all, this one included; a GPU is one process's.
        device: where the jobs compute.
        progress: called in this process after every generation of its own, and of others' ten times a second.

    Raises:
        InputError: fewer than one worker, or more in a process that is another's worker itself.
    """

    def __init__(self, workers: int, device: torch.device, progress: Stage | None) -> None:
        self._shown: dict[Any, Any] = {}
        if workers < 1:
            raise InputError(f"workers: expected at least 1, found {workers}")
        if workers > 1 and multiprocessing.parent_process() is not None:
            raise InputError(
                f"workers: expected 1 in a process that another one started, found {workers}; a script needs "
                'if __name__ == "__main__": before what it runs'
            )
        if workers > 1 and device.type != "cpu":
            self._warn(f"{device} is searched by one process, not by {workers}")
            workers = 1
        self.workers, self.progress = workers, progress
        self._waiting: SimpleQueue[tuple[Begun, int] | None] = SimpleQueue()
        self._messages: SimpleQueue[Message] = SimpleQueue()
        self._crew, self._closing = Crew(), threading.Event()
        self._threads = [
            threading.Thread(target=self._serve, args=(k,), daemon=True) for k in range(workers - 1)
        ]

    def __enter__(self) -> "Workplace":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the other processes; what they are at is lost, but for its checkpoint."""
        self._retire()
        self._crew.close()
        for thread in self._threads:
            thread.join()

    @property
    def is_busy(self) -> bool:
        """Whether a job waits for every process."""
        return self._waiting.qsize() >= self.workers

    def begin(self, jobs: Sequence[Job]) -> "Begun":
        """Put jobs in the row; what they find is there to be waited for."""
        begun = Begun(self, jobs)
        if self._threads and not self._closing.is_set():
            try:
                begun.packed = pack(begun.jobs[0])
            except HandOverError as error:
                self._go_on_alone(str(error))
        for k in range(len(jobs)):
            self._waiting.put((begun, k))
        return begun

    def ahead(self, items: Iterable[T]) -> Iterator[T]:
        """Yield items in their order, asking for further ones, which begin jobs, until it is busy."""
        asked: list[T] = []
        for item in items:
            asked.append(item)
            while asked and self.is_busy:
                yield asked.pop(0)
        yield from asked

    def step(self) -> None:
        """Do what another process has ended, or a job, or wait for the others."""
        if self._hear():
            return
        try:
            taken = self._waiting.get_nowait()
        except Empty:
            self._messages.get()()
            return
        if taken is not None:
            self._compute(*taken)

    def show(self, computed: Computed) -> None:
        """Warn of what a job warned of, once."""
        for text, category, file, line in computed.warnings:
            warnings.warn_explicit(text, category, file, line, registry=self._shown)

    def _compute(self, begun: "Begun", k: int) -> None:
        def progress(done: int, planned: int, loss: float) -> None:
            begun.note(k, done, planned, loss)
            while self._hear():
                pass

        if begun.has_failed:
            return
        try:
            computed = begun.jobs[k].run(progress)
        except GradientError as error:
            begun.fail(error)
        else:
            begun.end(k, computed)

    def _hear(self) -> bool:
        """Do what another thread asks for, if one does."""
        try:
            message = self._messages.get_nowait()
        except Empty:
            return False
        message()
        return True

    def _serve(self, index: int) -> None:
        """Have another process take jobs from the row; on a thread of its own."""
        if self._closing.wait(PATIENCE):
            return
        while self._waiting.qsize() <= index:
            if self._closing.wait(PAUSE):
                return
        try:
            worker = self._crew.start()
            worker.wait_until_ready()
            while (taken := self._waiting.get()) is not None:
                if self._closing.is_set():
                    self._waiting.put(taken)
                    self._messages.put(_nothing)  # whoever waits for one looks at the row again
                    return
                self._messages.put(self._served(worker, *taken))
        except HandOverError as error:
            self._messages.put(partial(self._go_on_alone, str(error)))
        except WorkerDiedError as error:
            self._messages.put(
                partial(_rise, InputError(f"{error}; name fewer with --workers, and --resume"))
            )
        except BaseException as error:  # noqa: BLE001  nobody would wait for a thread that ended
            self._messages.put(partial(_rise, error))

    def _served(self, worker: Worker, begun: "Begun", k: int) -> Message:
        """Have a worker compute a job; return what is to be made of it."""
        if begun.has_failed:
            return _nothing
        try:
            computed = worker.call(
                run_elsewhere,
                begun.packed,
                replace(begun.jobs[k], common={}),
                hear=lambda noted: self._messages.put(partial(begun.note, k, *noted)),
            )
        except HandOverError:
            self._waiting.put((begun, k))
            raise
        except WorkerDiedError:
            raise
        except GradientError as error:
            return partial(begun.fail, error)
        except BaseException as error:  # noqa: BLE001  which ends the audit, as it would here
            return partial(_rise, error)
        return partial(begun.end, k, computed)

    def _retire(self) -> None:
        """Have other processes take no further jobs."""
        self._closing.set()
        for _ in self._threads:
            self._waiting.put(None)

    def _go_on_alone(self, reason: str) -> None:
        self._retire()
        self._warn(
            f"searched by one process, not by {self.workers}: what others are to search is handed over by "
            f"pickle, which needs classes and functions of a module, and none within a function ({reason})"
        )

    def _warn(self, text: str) -> None:
        warnings.warn_explicit(text, WorkersWarning, __file__, 0, registry=self._shown)


class Begun:
    """Jobs of one stage that wait, run, or have been computed."""

    def __init__(self, place: Workplace, jobs: Sequence[Job]) -> None:
        self.jobs, self._place, self.packed = list(jobs), place, b""
        self._computed: dict[int, Computed] = {}
        self._noted: dict[int, tuple[int, int, float]] = {}
        self._error: GradientError | None = None

    @property
    def has_failed(self) -> bool:
        """Whether a job met no finite gradient or loss."""
        return self._error is not None

    @property
    def seconds(self) -> float:
        """Seconds that the jobs took, those of all processes added up."""
        return sum(computed.seconds for computed in self._computed.values())

    def results(self) -> list[SearchResult]:
        """Return what the searches found, in the order of the jobs; until they have, compute what waits.

        Raises:
            GradientError: a job met no finite gradient or loss. What else a job raises, of this stage or of
                another, rises at once.
        """
        while self._error is None and len(self._computed) < len(self.jobs):
            self._place.step()
        if self._error is not None:
            raise self._error
        return [result for k in range(len(self.jobs)) for result in self._computed[k].results]

    def note(self, k: int, done: int, planned: int, loss: float) -> None:
        """Report how far a job is, among all of its stage."""
        self._noted[k] = done, planned, loss
        if self._place.progress is None:
            return
        noted = [self._noted.get(i, (0, job.searches * job.budget, 0.0)) for i, job in enumerate(self.jobs)]
        shares = [self.jobs[i].searches for i in self._noted]
        losses = [loss for _, _, loss in self._noted.values()]
        self._place.progress(
            self.jobs[k].title,
            sum(done for done, _, _ in noted),
            sum(planned for _, planned, _ in noted),
            sum(share * loss for share, loss in zip(shares, losses, strict=True)) / sum(shares),
        )

    def end(self, k: int, computed: Computed) -> None:
        """Take what a job found."""
        self._computed[k] = computed
        done = sum(result.evaluations for result in computed.results)
        self.note(k, done, done, sum(result.loss for result in computed.results) / len(computed.results))
        self._place.show(computed)

    def fail(self, error: GradientError) -> None:
        """Take why a job found nothing; what waits of the stage is left out."""
        self._error = self._error or error


def _rise(error: BaseException) -> None:
    raise error


def _nothing() -> None:
    """Do nothing."""
