"""What packing gains: cells side by side in batches against one cell at a time, on all processors.

    python benchmarks/speed/packing.py [--victim resnet18] [--images 8] [--budget 26] [--repeats 3]

A cell is one image with its sibling and noise controls, by `cma-es`, as `ggl bench` runs it.
One cell at a time: in one process whose threads take every processor, and in one process a processor with
one thread each. Packed: as many packs as there are processors, one thread each. They take turns; a row is
the median over repeats of objective evaluations a second, scoring and start of the search included, loading
and ceilings not.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median

import numpy as np
import torch

from ggl.benchmarks.sweeps.cells import Pack, packs_of
from ggl.benchmarks.sweeps.engines import Engine, Failure, LocalEngine
from ggl.benchmarks.sweeps.execute import SEARCHES, run_pack
from ggl.benchmarks.sweeps.spec import parse_spec

SWEEP = """
name = "packing"
images = {images}
ceiling_budget = 8
backend = "layerwise"
[axes]
prior = "fashion-dcgan32"
victim = "{victim}"
data = "fashion-mnist-heldout"
strategy = "cma-es"
budget = {budget}
"""


def in_this_process(packs: Sequence[Pack]) -> int:
    """Run packs one after the other and return the objective evaluations."""
    return sum(_evaluations(pack) for pack in packs)


def on(engine: Engine) -> Callable[[Sequence[Pack]], int]:
    """Return what runs packs on an engine."""

    def run(packs: Sequence[Pack]) -> int:
        return sum(_on(engine, packs))

    return run


def _on(engine: Engine, packs: Sequence[Pack]) -> Iterator[int]:
    out = 0
    for task, pack in enumerate(packs):
        if out == engine.slots:
            ended = _taken(engine)
            out -= len(ended)
            yield from ended
        engine.submit(task, _evaluations, pack)
        out += 1
    while out:
        ended = _taken(engine)
        out -= len(ended)
        yield from ended


def _taken(engine: Engine) -> list[int]:
    results = [result for _, result in engine.wait()]
    for result in results:
        if isinstance(result, Failure):
            raise RuntimeError(result.reason)
    return results


def _evaluations(pack: Pack) -> int:
    """Run a pack, its ceilings made up, and return the objective evaluations of all its searches."""
    outcome = run_pack(pack, np.full((len(pack), 1, 32, 32), 0.5, np.float32), "cpu")
    return SEARCHES * sum(int(record.figures["evaluations"] or 0) for record in outcome.records)


def measure(victim: str, images: int, budget: int, repeats: int) -> dict[str, float]:
    """Return the median rate of every way."""
    cells = parse_spec(SWEEP.format(victim=victim, images=images, budget=budget), "packing").cells()
    cores = os.cpu_count() or 1
    single, packed = packs_of(cells, 1), packs_of(cells, -(-images // cores))
    torch.set_num_threads(cores)
    engine = LocalEngine(cores)
    ways: dict[str, tuple[Callable[[Sequence[Pack]], int], list[Pack]]] = {
        f"one cell at a time, {cores} threads": (in_this_process, single),
        f"one cell at a time in each of {cores} processes": (on(engine), single),
        f"packed, {cores} processes": (on(engine), packed),
    }
    try:
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for repeat in range(repeats + 1):
            for way, (run, packs) in ways.items():
                started = time.monotonic()
                done = run(packs)
                if repeat:  # the first warms up
                    rates[way].append(done / (time.monotonic() - started))
    finally:
        engine.close()
    return {way: median(found) for way, found in rates.items()}


def main() -> None:
    """Read the command line and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--victim", default="resnet18")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--budget", type=int, default=26)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rates = measure(options.victim, options.images, options.budget, options.repeats)
    first = next(iter(rates.values()))
    print("| victim | way | evaluations / s | × the first |\n|---|---|---|---|")
    for way, rate in rates.items():
        print(f"| {options.victim} | {way} | {rate:.0f} | {rate / first:.2f} |")


if __name__ == "__main__":
    main()
