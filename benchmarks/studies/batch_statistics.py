"""What running statistics add to a leak: their batch's mean and variance, matched beside the gradient.

    python benchmarks/studies/batch_statistics.py

Settings were written down before anything was run. A LeNet with batch normalization, untrained, in train
mode; ten clients, five on each of two initializations, their images drawn at random from the held-out ones;
batches of one image and of four; labels known; equal objective evaluations. A client's gradient goes out
defended, its running statistics as they are. Three attackers: of the gradient alone; told the batch's own
statistics; as a control told those of another client's batch. The weight of R_BN is the one of `WEIGHTS` with
the highest mean PSNR on ten other clients, over the cells of CMA-ES, and is the same everywhere. Cells that
are there are not run again.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ggl
from ggl.attacks.inversion import search_targets
from ggl.attacks.settings import AttackSettings
from ggl.attacks.target import Target
from ggl.base.files import write_atomically
from ggl.base.random import stream
from ggl.benchmarks.studies.tables import figure_text, markdown_table
from ggl.defenses import load_defense
from ggl.gradients.batch_statistics import BatchStatistics, statistics_of
from ggl.measures.metrics import match, psnr
from ggl.measures.statistics import bootstrap_mean, paired_test
from ggl.victims import load_victim

VICTIM = "ggl.benchmarks.studies.victim_states:normalized_lenet"
PRIOR, HELDOUT = "fashion-dcgan32", "fashion-mnist-heldout"
SEEDS, CLIENTS, BUDGET = (0, 1), 5, 300
WEIGHTS = (0.03, 0.3, 3.0)
LARGEST = 4
DEFENSES = ("none", "prune:0.99", "noise:1")
TOLD = ("nothing", "own", "another's")
RESULTS = Path(__file__).parents[1] / "results"
CELLS, TABLE = RESULTS / "batch-statistics.json", RESULTS / "batch-statistics.md"
HEADINGS = (
    *("images a gradient", "defense", "strategy", "PSNR, gradient alone", "with its statistics"),
    *("gain, dB", "p", "with another's", "gain, dB"),
)


@dataclass(frozen=True)
class Task:
    """One cell: what the attackers of all clients are told, and how they search."""

    size: int
    defense: str
    strategy: str
    told: str
    weight: float
    tuning: bool = False


def tuning_tasks() -> list[Task]:
    """Return the cells that the weight is chosen by."""
    cells = [(size, defense) for size in (1, LARGEST) for defense in DEFENSES]
    return [Task(size, d, "cma-es", "own", w, tuning=True) for w in WEIGHTS for size, d in cells]


def tasks(weight: float) -> list[Task]:
    """Return the cells that are reported, in the order in which they are run."""
    plan = [(size, defense, "cma-es") for defense in DEFENSES for size in (1, LARGEST)]
    plan += [(size, "none", "adam") for size in (1, LARGEST)]
    return [Task(*cell, told, weight) for cell in plan for told in TOLD]


def rows_of(tuning: bool) -> torch.Tensor:
    """Return the rows of every client's images, (seeds, clients, largest batch); none is in both sets."""
    count = len(SEEDS) * CLIENTS * LARGEST
    order = torch.randperm(1000, generator=stream(0, "batch statistics"))
    return (
        order[count : 2 * count].view(len(SEEDS), CLIENTS, -1)
        if tuning
        else order[:count].view(len(SEEDS), CLIENTS, -1)
    )


def run(task: Task) -> list[float]:
    """Return the PSNR of every client's reconstructions, the mean over its images."""
    data, prior, found = ggl.load_dataset(HELDOUT), ggl.load_prior(PRIOR), []
    for seed, clients in zip(SEEDS, rows_of(task.tuning)[:, :, : task.size], strict=True):
        victim = load_victim(VICTIM, in_channels=1, num_classes=10, image_size=32, seed=seed).train()
        oracle, defense = ggl.GradientOracle(victim), load_defense(task.defense)
        seen = [statistics_of(victim, data.images[rows]) for rows in clients]
        told: list[BatchStatistics | None] = [*seen]
        if task.told != "own":
            told = [None] * CLIENTS if task.told == "nothing" else [*seen[1:], seen[0]]
        targets = [
            Target(
                f"client {k}",
                defense.protect(
                    oracle.observe(data.images[rows], data.labels[rows]), stream(seed, "defense", k)
                ),
                data.labels[rows],
                statistics,
            )
            for k, (rows, statistics) in enumerate(zip(clients, told, strict=True))
        ]
        settings = AttackSettings(
            prior=prior,
            budget=BUDGET,
            strategy=task.strategy,
            defense=defense,
            latents=prior.latents,
            seed=seed,
            statistics_weight=task.weight,
        )
        for rows, result in zip(clients, search_targets(oracle, targets, settings), strict=True):
            private = data.images[rows]
            found.append(float(psnr(result.images[match(result.images, private)], private).mean()))
    return found


def chosen_weight(cells: Sequence[Mapping[str, Any]]) -> float:
    """Return the weight with the highest mean PSNR over the tuning cells."""
    means = {w: np.mean([c["psnr"] for c in cells if c["tuning"] and c["weight"] == w]) for w in WEIGHTS}
    return max(means, key=lambda weight: float(means[weight]))


def page(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return the Markdown page."""
    weight = chosen_weight(cells)
    tuned = ", ".join(
        f"{w:g}: {np.mean([c['psnr'] for c in cells if c['tuning'] and c['weight'] == w]):.2f} dB"
        for w in WEIGHTS
    )
    settings = (
        "Made by `python benchmarks/studies/batch_statistics.py`; the settings are in that file. "
        f"{len(SEEDS) * CLIENTS} clients, {BUDGET} evaluations. Mean PSNR over clients, and gains over the "
        "gradient alone, paired by client, with 95 % bootstrap intervals; p of the paired permutation test. "
        f"Weight of R_BN {weight:g}, by mean PSNR on other clients ({tuned})."
    )
    found = {(c["size"], c["defense"], c["strategy"], c["told"]): c["psnr"] for c in cells if not c["tuning"]}
    keys = dict.fromkeys(key[:3] for key in found if all((*key[:3], told) in found for told in TOLD))
    rows = [_texts(key, *(np.array(found[(*key, told)]) for told in TOLD)) for key in keys]
    return f"# What batch statistics add to a leak\n\n{settings}\n\n{markdown_table(HEADINGS, rows)}\n"


def _texts(key: tuple[Any, ...], alone: Any, own: Any, other: Any) -> Sequence[str]:
    size, defense, strategy = key

    def mean(values: Any) -> str:
        return figure_text(bootstrap_mean(values), "+.1f" if values is not alone else ".1f")

    return (
        *(str(size), defense, strategy, figure_text(bootstrap_mean(alone), ".1f"), f"{own.mean():.1f}"),
        *(mean(own - alone), f"{paired_test(own, alone):.3f}", f"{other.mean():.1f}", mean(other - alone)),
    )


def main() -> None:
    """Run what is not there yet, tuning first, and write the cells and the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    torch.set_num_threads(1)
    cells: list[dict[str, Any]] = json.loads(CELLS.read_text()) if CELLS.exists() else []

    def run_missing(planned: Sequence[Task]) -> None:
        for task in planned:
            if any(all(cell[k] == v for k, v in asdict(task).items()) for cell in cells):
                continue
            cells.append({**asdict(task), "psnr": [round(value, 4) for value in run(task)]})
            write_atomically(CELLS, (json.dumps(cells, indent=1) + "\n").encode())
            print(task, f"{np.mean(cells[-1]['psnr']):.2f} dB", flush=True)

    run_missing(tuning_tasks())
    run_missing(tasks(chosen_weight(cells)))
    write_atomically(TABLE, page(cells).encode())


if __name__ == "__main__":
    main()
