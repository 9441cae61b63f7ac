"""Candidates per second and peak memory of the gradient oracle's backends, in one run.

    python benchmarks/speed/oracle.py [--victims lenet convnet resnet18] [--populations 16 64]

`plain` is one batched forward and backward pass over the population, parameter gradients included:
what any attacker must pay. Backends take turns, round after round, and the median round counts, so
that a noisy machine disturbs all alike. Memory is the growth of a fresh process's peak over its size
before the first score.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from multiprocessing import get_context

import torch

from ggl.gradients import GradientOracle
from ggl.victims import load_victim

BACKENDS = ("sequential", "vmap", "layerwise")
MEGABYTE = 2**20
HEADINGS = (
    *("victim", "P", *BACKENDS, "plain"),
    *("× sequential", "× plain's time", "vmap MiB", "layerwise MiB"),
)


def scorer(victim: str, backend: str, population: int, size: int) -> Callable[[], object]:
    """Return a call that scores one population, or does the plain pass."""
    model = load_victim(victim, in_channels=1, num_classes=10, image_size=size, seed=0)
    random = torch.Generator().manual_seed(0)
    images = torch.rand((population, 1, size, size), generator=random)
    labels = torch.zeros(1, dtype=torch.int64)
    if backend == "plain":
        every = labels.expand(population)

        def plain() -> None:
            model.zero_grad()
            torch.nn.functional.cross_entropy(model(images), every).backward()

        return plain
    oracle = GradientOracle(model, backend=backend)
    shared = oracle.observe(images[:1], labels)
    return lambda: oracle.score(images, labels, shared, "cosine")


def rates(victim: str, population: int, size: int, rounds: int) -> dict[str, float]:
    """Return candidates per second by backend, the median of interleaved rounds."""
    calls = {backend: scorer(victim, backend, population, size) for backend in (*BACKENDS, "plain")}
    seconds: dict[str, list[float]] = {backend: [] for backend in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for backend, call in calls.items():
            started = time.perf_counter()
            call()
            seconds[backend].append(time.perf_counter() - started)
    return {backend: population / statistics.median(times) for backend, times in seconds.items()}


def memory_growth(victim: str, backend: str, population: int, size: int) -> float:
    """Return by how many MiB scoring raises this process's peak memory."""
    call = scorer(victim, backend, population, size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / MEGABYTE


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--victims", nargs="+", default=["lenet", "convnet", "mlp", "vit", "resnet18"])
    parser.add_argument("--populations", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--size", type=int, default=32, help="image height and width in pixels")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.size} px, cosine distance")
    print("candidates per second; ratios of the layerwise backend; peak memory growth in MiB\n")
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}")
    for victim in options.victims:
        for population in options.populations:
            speed = rates(victim, population, options.size, options.rounds)
            with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
                tasks = [(victim, backend, population, options.size) for backend in ("vmap", "layerwise")]
                grown = pool.starmap(memory_growth, tasks, chunksize=1)
            layerwise = speed["layerwise"]
            cells = [f"{speed[name]:.0f}" for name in (*BACKENDS, "plain")]
            cells += [f"{layerwise / speed['sequential']:.1f}", f"{speed['plain'] / layerwise:.2f}"]
            cells += [f"{growth:.0f}" for growth in grown]
            print(f"| {victim} | {population} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
