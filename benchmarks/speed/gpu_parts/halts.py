"""Where the host waits for the device inside a generation: nowhere between asking and reading the losses."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from ggl.attacks.search import Search
from ggl.benchmarks.speed.gpu_parts.bench import Bench, Case, Outcome, Table
from ggl.benchmarks.speed.gpu_parts.host_reads import HostReads
from ggl.benchmarks.speed.gpu_parts.searching import make_search

__all__ = ["check_halts"]

GENERATIONS = 2
"""Of a search before one is looked at."""

TARGETS = 2
SCORING, GENERATION = "decode and score", "a whole generation"
SYNCHRONIZATIONS = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy")
"""What the profiler calls a wait; `cudaDeviceSynchronize` is its own at the end."""

READ = "Memcpy DtoH"


def check_halts(bench: Bench) -> Outcome:
    """Count where the host waits, by operation and, on a GPU, by the profiler and torch's own debug mode.

    On a CPU nothing waits, but the operations are the same ones, but for the check of labels, which is
    made there alone.
    """
    rows: list[tuple[object, ...]] = []
    notes, failures = [], []
    case = bench.imagenet
    for strategy in bench.size.strategies:
        search = _begun(case, strategy)
        for what, call in ((SCORING, _scoring(case, search)), (GENERATION, _generation(search))):
            with HostReads(bench.device) as reads:
                call()
            seen = _profiled(call) if bench.on_gpu else Counter[str]()
            waits = sum(seen[name] for name in SYNCHRONIZATIONS)
            copies = sum(count for name, count in seen.items() if name.startswith(READ))
            found = (waits, copies) if bench.on_gpu else (None, None)
            rows.append((case.name, strategy, what, reads.total(), *found))
            notes += [f"{strategy}, {what}: {line} × {n}" for line, n in reads.lines.most_common()]
            if what == SCORING and (reads.total() or waits or copies):
                failures.append(f"{strategy}: the host waits while candidates are decoded and scored")
        if bench.on_gpu:
            failures += _forbidden(_scoring(case, search), strategy)
    heads = (
        *("networks", "strategy", "during", "waits, by operation"),
        *("waits, by the profiler", "reads, by the profiler"),
    )
    return Outcome([Table("Where the host waits", heads, rows)], notes, failures)


def _begun(case: Case, strategy: str) -> Search:
    """Return searches after some generations: what is looked at once has been looked at."""
    oracle = case.oracle()
    shared = case.shared(oracle, TARGETS)
    search = make_search(case, oracle, shared, strategy)
    for _ in range(GENERATIONS):
        search._generation(search._active(search.budget))
    return search


def _generation(search: Search) -> Callable[[], Any]:
    return lambda: search._generation(search._active(search.budget))


def _scoring(case: Case, search: Search) -> Callable[[], Any]:
    """Return what is done between a strategy's question and the read of the losses."""
    z, known = case.latents(2 * TARGETS), case.label.expand(2 * TARGETS, 1)

    @torch.no_grad()
    def score() -> Any:
        return search._loss(z, known, range(TARGETS), [2] * TARGETS)

    return score


def _profiled(call: Callable[[], Any]) -> Counter[str]:
    """Return how often every operation and copy is made in a call."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        call()
    return Counter({event.key: event.count for event in profiled.key_averages()})


def _forbidden(call: Callable[[], Any], strategy: str) -> list[str]:
    """Make a call while torch forbids every wait, and return what it says."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        return [f"{strategy}: torch.cuda.set_sync_debug_mode: {' '.join(str(error).split())[:300]}"]
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return []
