"""Every strategy at equal objective evaluations: what each recovers, and what it costs.

    python benchmarks/strategies.py --out runs/strategies [--workers 2] [--only cma-es adam]
    python benchmarks/strategies_table.py runs/strategies

The settings below were written down before anything was run. Ten held-out Fashion-MNIST images, one a
class, each attacked with three seeds; a strategy's thirty searches of a cell run side by side in a process
of one thread. A cell is done when its file is there: a command that was stopped goes on with the next one.
Seconds are the process's CPU seconds a search, so that other work on the machine counts little.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from ggl.attack import GradientMatch
from ggl.base.random import stream, stream_seed
from ggl.base.weights import write_atomically
from ggl.controls import choose_decoys, pick_private
from ggl.datasets import load_dataset
from ggl.defenses import load_defense
from ggl.generators import load_prior
from ggl.gradients import GradientOracle
from ggl.latents import load_latents
from ggl.leakage import score
from ggl.optimizers import load_group, load_strategy
from ggl.search import Search, SearchResult
from ggl.victims import load_victim

PRIOR, DATA = "fashion-dcgan32", "fashion-mnist-heldout"
IMAGES, SEEDS = 10, 3
DISTANCE, ATTACKER = "cosine", "adaptive"
BUDGETS = (500, 2_000, 10_000, 25_000)
DEFENSES: dict[str, tuple[str, ...]] = {
    "lenet": ("none", "noise:0.2", "prune:0.9"),
    "mlp": ("none", "noise:0.005", "prune:0.9"),
}
"""Per victim; the noise's standard deviation is about the root mean square of the victim's gradients."""

PATTERN, DEFAULT = "nevergrad-cma-ggl", "cma-es"
LONGEST: dict[str, int] = {
    "cma-es": 25_000,
    "sep-cma-es": 25_000,
    PATTERN: 25_000,
    "random": 25_000,
    "adam": 10_000,
    "l-bfgs": 10_000,
    "basin-cma": 10_000,
    "pycma": 2_000,
    "pycma:variant=dd": 10_000,
    "pycma:variant=vkd": 10_000,
    "pycma:restarts=bipop": 25_000,
    "nevergrad": 2_000,
    "nevergrad:optimizer=DiagonalCMA": 2_000,
    "nevergrad:optimizer=DE": 2_000,
    "bo": 500,
    "turbo": 2_000,
    "turbo:regions=5": 2_000,
}
"""How far each strategy is run without a defense; with one, the same up to `DEFENDED`."""

DEFENDED = 2_000

Row: TypeAlias = dict[str, str | int | float]


@dataclass(frozen=True)
class Cell:
    """One strategy against one victim and defense, up to one budget."""

    victim: str
    defense: str
    strategy: str
    budget: int
    marks: tuple[int, ...]

    def path(self, out: Path) -> Path:
        """Return the file that holds the cell's rows."""
        return out / f"{hashlib.sha256(repr(self).encode()).hexdigest()[:16]}.json"


def plan(only: Sequence[str] = ()) -> Iterator[Cell]:
    """Yield every cell, budgets that an anytime strategy passes on its way being one cell."""
    for defended in (False, True):
        for strategy, longest in LONGEST.items():
            if only and strategy not in only:
                continue
            for victim, defenses in DEFENSES.items():
                for defense in defenses[1:] if defended else defenses[:1]:
                    marks = tuple(b for b in BUDGETS if b <= min(longest, DEFENDED if defended else longest))
                    yield from _cells(victim, defense, strategy, marks)


def _cells(victim: str, defense: str, strategy: str, marks: tuple[int, ...]) -> Iterator[Cell]:
    if load_strategy(strategy, latent_dim=64, budget=marks[-1], seed=0).anytime:
        yield Cell(victim, defense, strategy, marks[-1], marks)
    else:
        yield from (Cell(victim, defense, strategy, mark, (mark,)) for mark in marks)


class Bench:
    """The private images, their gradients and what scores a reconstruction, for one victim and defense."""

    def __init__(self, victim: str, defense: str) -> None:
        data = load_dataset(DATA)
        rows = pick_private(data.labels, IMAGES, 0).repeat_interleave(SEEDS)
        self.images, self.labels = data.images[rows], data.labels[rows]
        decoys = choose_decoys(self.images[::SEEDS], self.labels[::SEEDS], data.images, data.labels, 0)
        self.decoys = [images for images in decoys.images for _ in range(SEEDS)]
        self.oracle = GradientOracle(
            load_victim(victim, in_channels=1, num_classes=10, image_size=32, seed=0)
        )
        known = load_defense(defense)
        shared = [
            known.protect(
                self.oracle.observe(image[None], label[None]), stream(i % SEEDS, "client", i // SEEDS)
            )
            for i, (image, label) in enumerate(zip(self.images, self.labels, strict=True))
        ]
        self.objective = GradientMatch(self.oracle, [known.view(g, ATTACKER) for g in shared], DISTANCE)

    def search(self, strategy: str, budget: int) -> Search:
        """Return the searches of a cell, image by image and seed by seed."""
        prior = load_prior(PRIOR)
        seeds = [stream_seed(i % SEEDS, "image", i // SEEDS) for i in range(len(self.images))]
        return Search(
            prior,
            self.labels[:, None],
            self.objective,
            load_group(strategy, latent_dim=prior.latent_dim, budget=budget, seeds=seeds),
            budget=budget,
            latents=load_latents(prior.latents),
            device=torch.device("cpu"),
        )


def run_cell(cell: Cell, out: Path) -> float:
    """Run one cell, write its rows and its searches' courses, and return its CPU seconds."""
    torch.set_num_threads(1)
    bench = Bench(cell.victim, cell.defense)
    search = bench.search(cell.strategy, cell.budget)
    started = time.process_time()
    rows: list[Row] = []
    for mark in cell.marks:
        results = search.run(until=mark)
        seconds = (time.process_time() - started) / len(results)
        rows += _rows(cell, mark, results, bench, seconds)
    courses = [_falls(result.history) for result in results]
    text = json.dumps({"cell": asdict(cell), "rows": rows, "courses": courses})
    write_atomically(cell.path(out), text.encode())
    return time.process_time() - started


def _rows(cell: Cell, mark: int, results: Sequence[SearchResult], bench: Bench, seconds: float) -> list[Row]:
    """Return what each search had found by a mark."""
    scores = score(torch.cat([r.images for r in results]), bench.images, bench.decoys, {})
    return [
        {
            "victim": cell.victim,
            "defense": cell.defense,
            "strategy": cell.strategy,
            "budget": mark,
            "image": i // SEEDS,
            "seed": i % SEEDS,
            "evaluations": result.evaluations,
            "loss": round(result.loss, 6),
            "psnr": round(float(scores.values["psnr"][i]), 3),
            "rank": int(scores.ranks[i]),
            "seconds": round(seconds, 2),
        }
        for i, result in enumerate(results)
    ]


def _falls(course: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return the entries of a course at which the best loss fell."""
    return [now for before, now in zip([(0, np.inf), *course], course, strict=False) if now[1] < before[1]]


def run(out: Path, workers: int, only: Sequence[str]) -> None:
    """Run every cell that is not done, in the order of the plan."""
    out.mkdir(parents=True, exist_ok=True)
    todo = [cell for cell in plan(only) if not cell.path(out).exists()]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(run_cell, cell, out): cell for cell in todo}
        for done in as_completed(pending):
            cell = pending[done]
            line = f"{cell.victim}, {cell.defense}, {cell.strategy}, {cell.budget}"
            print(f"{line}: {done.result():.0f} s", flush=True)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the cells' files")
    parser.add_argument("--workers", type=int, default=2, help="cells at once, one thread each")
    parser.add_argument("--only", nargs="+", default=[], help="strategies")
    arguments = parser.parse_args()
    run(arguments.out, arguments.workers, arguments.only)


if __name__ == "__main__":
    main()
