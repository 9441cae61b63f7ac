"""Clocks for work that a GPU does beside the host: nothing is timed before it is done."""

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

__all__ = ["medians", "peak_gib", "timed"]

GIB = 2**30


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that a call and the work that it began on the device take."""
    _wait(device)
    started = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - started


def medians(
    calls: Mapping[str, Callable[[], object]], device: torch.device, *, seconds: float, rounds: int
) -> dict[str, float]:
    """Return each call's median seconds over turns that they take: one, then as long as there is time.

    Every call is made once before, which is not counted.
    """
    for call in calls.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    started = time.monotonic()
    for turn in range(rounds):
        if turn and time.monotonic() - started > seconds:
            break
        for name, call in calls.items():
            found[name].append(timed(call, device))
    return {name: median(times) for name, times in found.items()}


def peak_gib(call: Callable[[], object], device: torch.device) -> float | None:
    """Return what a GPU holds at most during a call, in GiB; None on a CPU."""
    if device.type != "cuda":
        call()
        return None
    _wait(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    _wait(device)
    return torch.cuda.max_memory_allocated(device) / GIB


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
