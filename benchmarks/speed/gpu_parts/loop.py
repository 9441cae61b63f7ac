"""The published loop beside the product's own search, and one image from its gradient to its picture."""

import time

import ggl
from ggl.benchmarks.speed.gpu_parts.bench import Bench, Case, Outcome, Table
from ggl.benchmarks.speed.gpu_parts.searching import UNLIMITED, make_search, rate_of
from ggl.benchmarks.speed.gpu_parts.timing import medians
from ggl.benchmarks.speed.gpu_parts.variants import Variant, make_limit
from ggl.benchmarks.speed.published_loop import search as published

__all__ = ["measure_image", "measure_loop"]

IMAGE_SECONDS = 30
"""Within which an image is wanted by the default strategy."""

HEADS = ("networks", "precision", "search", "evaluations / s", "× the loop", "share of plain")


def measure_loop(bench: Bench) -> Outcome:
    """Run the loop and whole searches of the product, ask and tell included, in the same precision."""
    rows: list[tuple[object, ...]] = []
    cases = (bench.small,) if bench.size.tiny else (bench.imagenet, bench.faces)
    for place, case in enumerate(cases):
        seconds = bench.left() / (len(cases) - place) / 3
        rows += _compared(bench, case, seconds)
    return Outcome([Table("The published loop and whole searches", HEADS, rows)])


def _compared(bench: Bench, case: Case, seconds: float) -> list[tuple[object, ...]]:
    size = bench.size
    population = size.populations[len(size.populations) // 2]
    variant = Variant(population, "tf32" if bench.on_gpu else "float32")
    strategy = f"cma-es:population={population}"
    with variant.rounding():
        oracle = case.oracle()
        shared = case.shared(oracle)
        loop = published(
            *(case.prior, case.victim, shared[0], case.label),
            budget=UNLIMITED if bench.on_gpu else size.loop,
            seed=0,
            strategy=f"nevergrad-cma-ggl:population={size.loop}",
            seconds=seconds,
        )
        limit = {"plain": make_limit(case, variant)}
        took = medians(limit, bench.device, seconds=seconds / 4, rounds=size.rounds)
        found = {
            f"published, rounds of {size.loop}": loop.evaluations / loop.seconds,
            strategy: rate_of(make_search(case, oracle, shared, strategy), seconds if bench.on_gpu else 0.0),
        }
    first, plain = loop.evaluations / loop.seconds, population / took["plain"]
    where = case.name, variant.precision
    return [(*where, search, rate, rate / first, rate / plain) for search, rate in found.items()]


def measure_image(bench: Bench) -> Outcome:
    """Attack one gradient by the default strategy, as `ggl.attack` does."""
    case, budget = bench.imagenet, bench.size.budget
    oracle = ggl.GradientOracle(case.victim)
    shared = case.shared(oracle)[0]
    started = time.perf_counter()
    found = ggl.attack(oracle, shared, case.label.cpu(), prior=case.prior, budget=budget)
    seconds = time.perf_counter() - started
    notes = []
    if bench.on_gpu:
        reached = "reached" if seconds < IMAGE_SECONDS else "NOT reached"
        notes = [f"wanted an image in {IMAGE_SECONDS} s: {reached}"]
    heads = ("networks", "backend", "evaluations", "seconds", "least loss")
    row = (case.name, oracle.backend, found.evaluations, seconds, found.loss)
    return Outcome([Table("One image, by the default strategy", heads, [row])], notes)
