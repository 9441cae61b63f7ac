"""The same packs on a Ray cluster, or on one machine's Ray; needs the extra `ray`."""

import functools
import os
from collections.abc import Callable
from typing import Any

from ggl.base.distribution import install_command
from ggl.base.errors import InputError
from ggl.base.processes import in_one_line, prepare_worker
from ggl.benchmarks.sweeps.engines import Failure

__all__ = ["RayEngine"]


class RayEngine:
    """Tasks of Ray, one processor and one thread each; on GPUs one GPU each.

    Args:
        workers: tasks at once; None for as many as the cluster has processors, or GPUs.
        gpu: whether a task needs a GPU.

    The cluster is the one of RAY_ADDRESS, or one started here with `workers` processors.
    """

    def __init__(self, workers: int | None, *, gpu: bool = False) -> None:
        try:
            import ray
        except ImportError as error:
            raise InputError(f"engine ray needs ray: {install_command('ray')}") from error
        self._ray: Any = ray
        if os.environ.get("RAY_ADDRESS"):
            self._ray.init(log_to_driver=False)
        else:
            self._ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
        try:
            there = self.check("GPU" if gpu else "CPU")
        except InputError:
            self.close()
            raise
        self.slots = there if workers is None else min(workers, there)
        options: dict[str, Any] = {"num_cpus": 1, "max_retries": 0, **({"num_gpus": 1} if gpu else {})}
        self._call = self._ray.remote(**options)(_call)
        self._running: dict[Any, int] = {}

    def check(self, kind: str) -> int:
        """Return how many of "CPU" or "GPU" the cluster has.

        Raises:
            InputError: none.
        """
        there = int(self._ray.cluster_resources().get(kind, 0))
        if not there:
            raise InputError(
                f"expected a Ray cluster with a {kind}, found none; start one, or --engine local"
            )
        return there

    def submit(self, task: int, function: Callable[..., Any], *arguments: object) -> None:
        """Start a task."""
        self._running[self._call.remote(functools.partial(function, *arguments))] = task

    def wait(self) -> list[tuple[int, Any]]:
        """Wait for a task to end."""
        ended, _ = self._ray.wait(list(self._running))
        return [(self._running.pop(reference), self._take(reference)) for reference in ended]

    def close(self) -> None:
        """Leave the cluster; what runs there for this session is stopped."""
        self._ray.shutdown()

    def _take(self, reference: Any) -> object:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            return Failure(in_one_line(error.cause))
        except self._ray.exceptions.RayError as error:
            return Failure(f"the worker died: {in_one_line(error)}")


def _call(task: Callable[[], Any]) -> Any:
    prepare_worker()
    return task()
