"""Two hundred clients and what real attacks find of each: the population that simulated audits draw from.

    python benchmarks/studies/clients.py

Written down before it was run: LeNet untrained, 200 held-out clients of one image, twenty a class; no
defense, noise of 0.2, 1 and 30, pruning of 99 %; Adam with 100 evaluations, ceilings of 400. `coverage.py`
and `null.py` beside this file need every client's errors and ranks, none of the pictures.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

import ggl
from ggl.benchmarks.studies.tables import read_csv, write_csv
from ggl.datasets.loading import load_dataset
from ggl.datasets.picking import pick_private
from ggl.measures.leakage import HEADLINE

__all__ = ["CLIENTS", "SEED", "Client", "measured"]

PRIOR, HELDOUT, SEED = "fashion-dcgan32", "fashion-mnist-heldout", 0
CLIENTS, BUDGET, CEILING_BUDGET, STRATEGY = 200, 100, 400, "adam"
DEFENSES = ("none", "noise:0.2", "noise:1", "noise:30", "prune:0.99")
Values: TypeAlias = NDArray[np.float64]
ROWS = Path(__file__).parents[1] / "results" / "clients.csv"


@dataclass(frozen=True)
class Client:
    """One client under one defense: mean squared errors, and what else the attack comes to."""

    defense: str
    image: int
    attack: float
    sibling: float
    noise: float
    prior: float
    class_mean: float
    ceiling: float
    psnr: float
    ssim: float
    rank: int
    decoys: int


def measured() -> dict[str, dict[str, Values]]:
    """Return the columns (clients,) of what was measured, by defense."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in read_csv(ROWS, Client):
        for name, value in vars(row).items():
            if name != "defense":
                found.setdefault(row.defense, {}).setdefault(name, []).append(float(value))
    return {
        defense: {name: np.array(values) for name, values in columns.items()}
        for defense, columns in found.items()
    }


def attacked() -> list[Client]:
    """Attack every client, and score what comes out."""
    data = load_dataset(HELDOUT)
    rows = pick_private(data.labels, CLIENTS, SEED)
    report = ggl.audit(
        ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32, seed=SEED),
        data.images[rows],
        data.labels[rows],
        prior=ggl.load_prior(PRIOR),
        defenses=DEFENSES,
        strategies=[STRATEGY],
        budget=BUDGET,
        ceiling_budget=CEILING_BUDGET,
        seed=SEED,
    )
    found = []
    for cell in report.cells:
        errors = {name: scores.values[HEADLINE] for name, scores in cell.controls.items()}
        for i in range(CLIENTS):
            known = {name.replace(" ", "_"): round(float(values[i]), 7) for name, values in errors.items()}
            found.append(
                Client(
                    cell.defense,
                    i,
                    attack=round(float(cell.attack.values[HEADLINE][i]), 7),
                    ceiling=round(float(report.ceiling.values[HEADLINE][i]), 7),
                    psnr=round(float(cell.attack.values["psnr"][i]), 3),
                    ssim=round(float(cell.attack.values["ssim"][i]), 4),
                    rank=int(cell.attack.ranks[i]),
                    decoys=int(cell.attack.decoys[i]),
                    **known,
                )
            )
    return found


def main() -> None:
    """Measure, and write the rows."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    torch.set_num_threads(1)
    write_csv(ROWS, Client, attacked())


if __name__ == "__main__":
    main()
