"""What a client shares round by round: the leak over a training, and what several rounds say together.

    python benchmarks/studies/rounds.py --data PATH/fashion-mnist.npz [--workers 2]

Written down before it was run: LeNet, trained on the training split, padded to 32 px, by SGD (0.02,
momentum 0.9, batches of 64) to each mark of `ROUNDS`, a round of the federation; ten held-out clients of one
image, one a class, that share a gradient in each round; without a defense, and under noise of a fixed size;
the default strategy (`gauss-newton`) with 500 evaluations; the same images, controls and ceiling throughout.
Of several rounds the gradients are matched jointly (`ggl.captures.rounds`), at as many evaluations, each of
which computes every round's gradient. Intervals are over clients; differences are paired by client.
"""

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ggl
from ggl.base.files import write_atomically
from ggl.benchmarks.studies.tables import figure_text, markdown_table
from ggl.captures.rounds import EveryRound, SeveralRounds
from ggl.datasets.loading import load_dataset
from ggl.datasets.picking import pick_private
from ggl.measures.statistics import bootstrap_mean
from ggl.victims.training import train_victim

PRIOR, HELDOUT, SHAPE = "fashion-dcgan32", "fashion-mnist-heldout", (1, 32, 32)
VICTIM, RATE, BATCH_SIZE, SEED = "lenet", 0.02, 64, 0
ROUNDS = (0, 10, 30, 100, 300, 1000, 3000)
DEFENSES = ("none", "noise:0.01", "noise:0.2")
STRATEGY, IMAGES, BUDGET, CEILING_BUDGET = "gauss-newton", 10, 500, 1000
JOINED = ((0, 10), (0, 10, 30, 100), ROUNDS)
TABLE = Path(__file__).parents[1] / "results" / "rounds.md"


@dataclass(frozen=True)
class Task:
    """Rounds that are matched together, under a defense."""

    rounds: tuple[int, ...]
    defense: str


def states(data: Path) -> dict[int, dict[str, Tensor]]:
    """Return the victim's weights at each mark."""
    training = load_dataset(data, image_shape=SHAPE, fit="pad", split="train")
    victim = untrained()
    marks = train_victim(
        victim,
        training.images,
        training.labels,
        marks=ROUNDS,
        learning_rate=RATE,
        batch_size=BATCH_SIZE,
        seed=SEED,
    )
    return {state.step: state.tensors for state in marks}


def untrained() -> nn.Module:
    """Return the victim as it begins."""
    return ggl.load_victim(VICTIM, in_channels=1, num_classes=10, image_size=SHAPE[-1], seed=SEED)


def victim_of(weights: dict[str, Tensor]) -> nn.Module:
    """Return the victim with weights."""
    victim = untrained()
    victim.load_state_dict(weights)
    return victim


def run(task: Task, weights: dict[int, dict[str, Tensor]], ceiling: Tensor) -> dict[str, Any]:
    """Return a cell's figures."""
    torch.set_num_threads(1)
    data = load_dataset(HELDOUT)
    rows = pick_private(data.labels, IMAGES, SEED)
    victims = [victim_of(weights[mark]) for mark in task.rounds]
    several = len(victims) > 1
    report = ggl.audit(
        SeveralRounds(victims) if several else victims[0],
        data.images[rows],
        data.labels[rows],
        prior=ggl.load_prior(PRIOR),
        loss=EveryRound("cross-entropy", len(victims)) if several else "cross-entropy",
        defenses=[task.defense],
        strategies=[STRATEGY],
        budget=BUDGET,
        ceiling=ceiling,
        seed=SEED,
    )
    result: Any = report.to_dict()
    (cell,) = result["results"]
    return dict(cell)


def page(found: dict[Task, dict[str, Any]]) -> str:
    """Return the Markdown page."""
    rows = []
    for task, cell in found.items():
        first = found[Task(task.rounds[:1], task.defense)]
        gained = psnrs(cell) - psnrs(first)
        rows.append(
            (
                ", ".join(map(str, task.rounds)),
                task.defense,
                figure_text(cell["leak_score"]),
                figure_text(cell["identification"]),
                figure_text(cell["psnr"], ".1f"),
                "" if cell is first else figure_text(bootstrap_mean(gained), "+.1f"),
                cell["verdict"],
            )
        )
    headings = (
        *("rounds", "defense", "leak score", "identified", "PSNR, dB"),
        *("PSNR less that of the first of them", "verdict"),
    )
    settings = (
        "Made by `python benchmarks/studies/rounds.py`; the settings are in that file. "
        f"{IMAGES} clients, {BUDGET} evaluations; means with 95 % intervals."
    )
    return f"# What rounds say\n\n{settings}\n\n{markdown_table(headings, rows)}\n"


def psnrs(cell: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return every client's PSNR."""
    return np.array([image["psnr"] for image in cell["images"]])


def tasks() -> Sequence[Task]:
    """Return every cell, in the table's order."""
    joint = [*((mark,) for mark in ROUNDS), *JOINED]
    return [Task(rounds, defense) for defense in DEFENSES for rounds in joint]


def main() -> None:
    """Run everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    data = load_dataset(HELDOUT)
    rows = pick_private(data.labels, IMAGES, SEED)
    found = ggl.invert(
        data.images[rows],
        data.labels[rows],
        prior=ggl.load_prior(PRIOR),
        budget=CEILING_BUDGET,
        seed=SEED,
    )
    ceiling = torch.cat([result.images for result in found])
    once = partial(run, weights=states(options.data), ceiling=ceiling)
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        cells = dict(zip(tasks(), pool.map(once, tasks()), strict=True))
    write_atomically(TABLE, page(cells).encode())


if __name__ == "__main__":
    main()
