"""Seconds: what clock counts them, when several workers are done, and how they are said."""

import time
from collections.abc import Callable, Sequence

import torch

__all__ = ["clock_of", "duration_text", "wall_seconds"]


def clock_of(device: torch.device) -> Callable[[], float]:
    """Return the process's time on a CPU, so that other work on it counts little, and else wall time."""
    return time.process_time if device.type == "cpu" else time.perf_counter


def wall_seconds(times: Sequence[float], workers: int) -> float:
    """Return when the last of some workers is done, each taking the next piece of work when it is free.

    >>> wall_seconds([3.0, 1.0, 1.0, 2.0], 2)
    4.0
    """
    free = [0.0] * workers
    for seconds in times:
        first = free.index(min(free))
        free[first] += seconds
    return max(free)


def duration_text(seconds: float) -> str:
    """Return a duration in seconds, minutes or hours.

    >>> [duration_text(seconds) for seconds in (1.26, 42, 300, 9000)]
    ['1.3 s', '42 s', '5 min', '2.5 h']
    """
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
