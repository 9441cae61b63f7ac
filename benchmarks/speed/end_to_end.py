"""Seconds to the end of the published loop: the loop itself, and what this project does by default.

    python benchmarks/speed/end_to_end.py [--victims resnet18 ...] [--images 3] [--out FILE]

Settings were written down before anything was run. The prior is `fashion-dcgan32`, at 32 px; images are
held-out ones, one of each of the first classes; nothing is defended, labels are known. The loop
(`published_loop`) searches one image with the published strategy to its published number of evaluations, or
to what `BUDGETS` allows of it. What it ended at is the mark. Then the default search goes on until it has an
image as near, by the same measure:

- `l2`: the loop's own squared distance;
- `cosine`: the default's distance. The mark is that of the loop's image;
- `cosine, side by side`: as many evaluations as the slowest image took, for all images at once, as an audit
  does it; seconds an image.

No latent rule weighs latents, as in the loop. The loop and the searches take turns, image by image, in one
process, with as many threads as torch takes. Ratios are of one image's times; their median counts. Memory is
what a fresh process's search of `MEMORY_EVALUATIONS` evaluations adds at its peak (Linux). `biggan` is
BigGAN-deep-256's network with random weights, ResNet-18 and 224 px: what `LARGE_EVALUATIONS` evaluations
take, since no image can be found with it.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from ggl.attacks.inversion import attack, attack_many
from ggl.attacks.target import Target
from ggl.benchmarks.speed.oracle import peak_growth
from ggl.benchmarks.speed.published_loop import Course, search
from ggl.benchmarks.studies.tables import markdown_table
from ggl.benchmarks.tools.random_weights import write_biggan
from ggl.datasets.loading import load_dataset
from ggl.datasets.picking import pick_private
from ggl.generators import load_prior
from ggl.gradients import GradientOracle, Gradients
from ggl.victims import load_victim

PRIOR, DATA, SIZE = "fashion-dcgan32", "fashion-mnist-heldout", 32
BUDGETS = {"lenet": 25_000, "convnet": 10_000, "resnet18": 2_500}
"""Evaluations of the loop: the published 25,000, less where they would take more than two minutes."""

MOST = 5_000
"""Evaluations that the default search has to come as near."""

MEMORY_EVALUATIONS = 200
LARGE_EVALUATIONS = 50
"""Of the loop's round, the least that it does."""

BIGGAN = "biggan"
KINDS = ("l2", "cosine")
SIDE_BY_SIDE = "cosine, side by side"

HEADINGS = (
    *("victim", "objective", "reached", "loop's evaluations", "evaluations"),
    *("loop's seconds", "seconds", "times faster", "least to most"),
)


@dataclass(frozen=True)
class Private:
    """An image, its label (1,), and the gradient that its client shared."""

    image: Tensor
    label: Tensor
    shared: Gradients


@dataclass(frozen=True)
class Taken:
    """What a search took until it came as near as the loop, or until its budget ended."""

    is_near: bool
    evaluations: int
    seconds: float


class _NearError(Exception):
    """A search has come as near as the loop."""


class Bench:
    """A victim, a prior and private images."""

    def __init__(self, victim: str, images: int) -> None:
        data = load_dataset(DATA)
        self.prior = load_prior(PRIOR)
        self.victim = load_victim(victim, in_channels=1, num_classes=10, image_size=SIZE, seed=0)
        self.oracle = GradientOracle(self.victim)
        rows = pick_private(data.labels, 10, 0)[:images]
        self.private = [
            Private(x, y[None], self.oracle.observe(x[None], y[None]))
            for x, y in zip(data.images[rows], data.labels[rows], strict=True)
        ]
        self.side_by_side([0.0], MEMORY_EVALUATIONS)  # libraries wake up, a backend is chosen

    def loop(self, private: Private, budget: int) -> Course:
        """Search one image as published."""
        return search(self.prior, self.victim, private.shared, private.label, budget=budget, seed=0)

    @torch.no_grad()
    def distance(self, private: Private, course: Course, kind: str) -> float:
        """Return how near the loop's image comes."""
        image = self.prior.decode(course.latents[None], private.label)
        return float(self.oracle.score(image, private.label, private.shared, kind))

    def until_near(self, private: Private, kind: str, mark: float) -> Taken:
        """Search one image by default until a candidate is as near as the mark."""
        spent, started = 0, time.perf_counter()

        def watch(done: int, _planned: int, loss: float) -> None:
            nonlocal spent
            spent = done
            if loss <= mark:
                raise _NearError

        try:
            attack(
                self.oracle,
                private.shared,
                private.label,
                prior=self.prior,
                distance=kind,
                latents="free",
                budget=MOST,
                progress=watch,
            )
        except _NearError:
            return Taken(True, spent, time.perf_counter() - started)
        return Taken(False, spent, time.perf_counter() - started)

    def side_by_side(self, marks: Sequence[float], budget: int) -> list[Taken]:
        """Search several images at once, and say of each whether its image is as near as its mark."""
        chosen = self.private[: len(marks)]
        targets = [Target(f"image {i}", one.shared, one.label) for i, one in enumerate(chosen)]
        started = time.perf_counter()
        found = attack_many(self.oracle, targets, prior=self.prior, latents="free", budget=budget)
        seconds = (time.perf_counter() - started) / len(found)
        return [
            Taken(result.loss <= mark, result.evaluations, seconds)
            for result, mark in zip(found, marks, strict=True)
        ]


def compare(victim: str, images: int, budget: int) -> Iterator[list[str]]:
    """Yield the lines of a victim."""
    bench = Bench(victim, images)
    loops: list[Course] = []
    taken: dict[str, list[Taken]] = {kind: [] for kind in KINDS}
    marks: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for private in bench.private:
        loops.append(bench.loop(private, budget))
        for kind in KINDS:
            marks[kind].append(bench.distance(private, loops[-1], kind))
            taken[kind].append(bench.until_near(private, kind, marks[kind][-1]))
    most = max(one.evaluations for one in taken["cosine"])
    taken[SIDE_BY_SIDE] = bench.side_by_side(marks["cosine"], most)
    for kind, found in taken.items():
        ratios = [loop.seconds / one.seconds for loop, one in zip(loops, found, strict=True)]
        yield [
            victim,
            kind,
            f"{sum(one.is_near for one in found)} of {len(found)}",
            f"{loops[0].evaluations:,}",
            f"{median(one.evaluations for one in found):,.0f}",
            f"{median(loop.seconds for loop in loops):.1f}",
            f"{median(one.seconds for one in found):.2f}",
            f"{median(ratios):.0f}",
            f"{min(ratios):.0f} to {max(ratios):.0f}",
        ]


def compare_large() -> list[str]:
    """Return the line of BigGAN: as many evaluations, no mark."""
    with tempfile.TemporaryDirectory() as folder:
        write_biggan(Path(folder), 256)
        prior = load_prior(f"biggan-deep:256,size=224,weights={folder}")
    victim = load_victim("resnet18-imagenet", in_channels=3, num_classes=1000, image_size=224, seed=0)
    oracle, label = GradientOracle(victim), torch.zeros(1, dtype=torch.int64)
    random = torch.Generator().manual_seed(0)
    shared = oracle.observe(torch.rand(1, 3, 224, 224, generator=random), label)
    loop = search(prior, victim, shared, label, budget=LARGE_EVALUATIONS, seed=0)
    started = time.perf_counter()
    found = attack(oracle, shared, label, prior=prior, latents="free", budget=LARGE_EVALUATIONS)
    seconds = (time.perf_counter() - started) * loop.evaluations / found.evaluations
    return [
        *(BIGGAN, "cosine", "no mark", f"{loop.evaluations}", f"{found.evaluations}"),
        *(f"{loop.seconds:.1f}", f"{seconds:.2f}", f"{loop.seconds / seconds:.1f}", "of equal evaluations"),
    ]


def memory_growth(victim: str, way: str) -> float:
    """Return how many MiB one search adds to this process's memory at its peak."""
    bench = Bench(victim, 1)
    if way == "loop":
        return peak_growth(lambda: bench.loop(bench.private[0], MEMORY_EVALUATIONS))
    return peak_growth(lambda: bench.side_by_side([0.0], MEMORY_EVALUATIONS))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--victims", nargs="+", default=[*BUDGETS, BIGGAN], choices=[*BUDGETS, BIGGAN])
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--budget", type=int, help="of the loop; by default each victim's own")
    options = parser.parse_args()
    small = [victim for victim in options.victims if victim != BIGGAN]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print(markdown_table(HEADINGS, []), flush=True)
    for victim in small:
        for line in compare(victim, options.images, options.budget or BUDGETS[victim]):
            print(f"| {' | '.join(line)} |", flush=True)
    if BIGGAN in options.victims:
        print(f"| {' | '.join(compare_large())} |", flush=True)
    print("\n| victim | loop, MiB | default, MiB |\n|---|---|---|")
    for victim in small:
        with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            grown = pool.starmap(memory_growth, [(victim, "loop"), (victim, "default")], chunksize=1)
        print(f"| {victim} | {grown[0]:.0f} | {grown[1]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
