"""Many targets side by side against one at a time."""

from ggl.benchmarks.speed.gpu_parts.bench import Bench, Outcome, Table, tf32
from ggl.benchmarks.speed.gpu_parts.searching import make_search, rate_of

__all__ = ["measure_packed"]


def measure_packed(bench: Bench) -> Outcome:
    """Measure whole searches of one target, and of many in shared batches.

    `benchmarks/speed/packing.py` has the same of sweeps' cells on a CPU.
    """
    case, targets, rows = bench.imagenet, bench.size.targets, []
    with tf32(True):
        oracle = case.oracle()
        shared = case.shared(oracle, targets)
        ways = [(strategy, count) for strategy in bench.size.strategies for count in (1, targets)]
        single = 0.0
        for number, (strategy, count) in enumerate(ways):
            seconds = bench.left() / (len(ways) - number) / 2 if bench.on_gpu else 0.0
            rate = rate_of(make_search(case, oracle, shared[:count], strategy), seconds)
            single = rate if count == 1 else single
            rows.append((case.name, strategy, count, rate, rate / single))
    heads = ("networks", "strategy", "targets", "evaluations / s", "× one target")
    return Outcome([Table("Targets side by side", heads, rows)])
