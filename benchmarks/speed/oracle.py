"""Candidates per second and peak memory of the gradient oracle's backends, in one run.

    python benchmarks/speed/oracle.py [--victims lenet resnet18] [--populations 16 64] [--precision bfloat16]
    python benchmarks/speed/oracle.py --memory --populations 16 64 256 1024 [--victims lenet resnet18]

`plain` is one batched forward and backward pass over the population, parameter gradients included:
what any attacker must pay. Backends take turns, round after round, and the median round counts, so
that a noisy machine disturbs all alike. A turn is as many calls in a row as fill a tenth of a second, as
a search makes them, against a view that is prepared once; one call alone would begin with caches that the
last backend has filled. Memory is what a fresh process's first score adds at its peak.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from ggl.gradients import GradientOracle, View
from ggl.victims import load_victim

BACKENDS = ("sequential", "vmap", "layerwise")
TURN_SECONDS = 0.1
HEADINGS = (
    *("victim", "P", *BACKENDS, "plain"),
    *("× sequential", "× plain's time", "vmap MiB", "layerwise MiB"),
)


@dataclass(frozen=True)
class Variant:
    """How the layerwise backend is run; the others keep the defaults."""

    precision: str = "float32"
    chunk_size: int | None = None
    channels_last: bool = False


def scorer(victim: str, backend: str, population: int, size: int, variant: Variant) -> Callable[[], object]:
    """Return a call that scores one population, or does the plain pass."""
    if backend != "layerwise":
        variant = Variant()
    model = load_victim(victim, in_channels=1, num_classes=10, image_size=size, seed=0)
    if variant.channels_last:
        model = model.to(memory_format=torch.channels_last)
    random = torch.Generator().manual_seed(0)
    images = torch.rand((population, 1, size, size), generator=random)
    labels = torch.zeros(1, dtype=torch.int64)
    if backend == "plain":
        every = labels.expand(population)

        def plain() -> None:
            model.zero_grad()
            torch.nn.functional.cross_entropy(model(images), every).backward()

        return plain
    oracle = GradientOracle(
        model, backend=backend, precision=variant.precision, chunk_size=variant.chunk_size
    )
    view = oracle.prepare(View(oracle.observe(images[:1], labels)))
    return lambda: oracle.score(images, labels, view, "cosine")


def rates(victim: str, population: int, size: int, rounds: int, variant: Variant) -> dict[str, float]:
    """Return candidates per second by backend, the median of turns."""
    calls = {backend: scorer(victim, backend, population, size, variant) for backend in (*BACKENDS, "plain")}
    seconds: dict[str, list[float]] = {backend: [] for backend in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for backend, call in calls.items():
            seconds[backend].append(turn(call))
    return {backend: population / statistics.median(times) for backend, times in seconds.items()}


def turn(call: Callable[[], object]) -> float:
    """Return the seconds of a call, in a turn of several."""
    started, done = time.perf_counter(), 0
    while not done or time.perf_counter() - started < TURN_SECONDS:
        call()
        done += 1
    return (time.perf_counter() - started) / done


def memory_growth(victim: str, backend: str, population: int, size: int, variant: Variant) -> float:
    """Return how many MiB the first score adds to this process's memory at its peak (Linux)."""
    return peak_growth(scorer(victim, backend, population, size, variant))


def peak_growth(call: Callable[[], object]) -> float:
    """Return how many MiB a call adds to this process's memory at its peak (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = resident("VmRSS")
    call()
    return (resident("VmHWM") - before) / 1024


def growths(tasks: Sequence[tuple[str, str, int, int, Variant]]) -> list[float]:
    """Return the memory growth of each task in a process of its own."""
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.starmap(memory_growth, tasks, chunksize=1)


def print_memory(victims: Sequence[str], populations: Sequence[int], size: int, variant: Variant) -> None:
    """Print the peak memory growth of backends by population."""
    print(f"torch {torch.__version__}, {size} px: peak memory growth in MiB by population\n")
    headings = ("victim", "backend", *map(str, populations))
    print(f"| {' | '.join(headings)} |\n|{'---|' * len(headings)}")
    for victim in victims:
        for backend in BACKENDS:
            grown = growths([(victim, backend, population, size, variant) for population in populations])
            cells = " | ".join(f"{growth:.0f}" for growth in grown)
            print(f"| {victim} | {backend} | {cells} |", flush=True)


def resident(entry: str) -> int:
    """Return an entry of this process's memory status in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(entry))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--victims", nargs="+", default=["lenet", "convnet", "mlp", "vit", "resnet18"])
    parser.add_argument("--populations", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--size", type=int, default=32, help="image height and width in pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--precision", default="float32", help="of the layerwise backend: float32 or bfloat16"
    )
    parser.add_argument("--chunk-size", type=int, help="of the layerwise backend")
    parser.add_argument("--memory", action="store_true", help="measure the peak memory of backends alone")
    parser.add_argument("--channels-last", action="store_true", help="memory format of the layerwise backend")
    options = parser.parse_args()
    variant = Variant(options.precision, options.chunk_size, options.channels_last)
    print(f"layerwise: {variant}")
    if options.memory:
        print_memory(options.victims, options.populations, options.size, variant)
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.size} px, cosine distance")
    print("candidates per second; ratios of the layerwise backend; peak memory growth in MiB\n")
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}")
    for victim in options.victims:
        for population in options.populations:
            speed = rates(victim, population, options.size, options.rounds, variant)
            grown = growths(
                [(victim, backend, population, options.size, variant) for backend in ("vmap", "layerwise")]
            )
            layerwise = speed["layerwise"]
            cells = [f"{speed[name]:.0f}" for name in (*BACKENDS, "plain")]
            cells += [f"{layerwise / speed['sequential']:.1f}", f"{speed['plain'] / layerwise:.2f}"]
            cells += [f"{growth:.0f}" for growth in grown]
            print(f"| {victim} | {population} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
