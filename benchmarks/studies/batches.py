"""What a batch hides, or a sum over clients: audits of 1 to 16 images a gradient.

    python benchmarks/studies/batches.py [--workers 2]

Settings were written down before anything was run; cells that are missing in the table were left out for
time. Twelve clients, their images drawn at random from the held-out ones, so that labels come twice as they
do; a smaller batch holds the first images of the larger one. An untrained LeNet, the embedded prior, labels
known, equal objective evaluations of the whole batch; strategies that search the batch's latents as one
space (cma-es), with a covariance for each image (block-cma-es), by every image's own residuals
(gauss-newton) or along gradients (adam); IG on pixels shows what the prior adds. Cells that are there are not
run again. Figures and tests are over batches.

Under secure aggregation a server sees the sum of its clients' gradients alone. Where each takes one step on
one image that is the gradient of a batch of so many images, times their number, which the cosine does not
see: the rows of B images are those of B such clients.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import ggl
from ggl.base.files import write_atomically
from ggl.base.random import stream
from ggl.benchmarks.studies.tables import figure_text, markdown_table
from ggl.datasets.loading import load_dataset

VICTIM, PRIOR, HELDOUT = "lenet", "fashion-dcgan32", "fashion-mnist-heldout"
CLIENTS, BUDGET, CEILING_BUDGET, SEED = 12, 1000, 1000, 0
SIZES = (1, 2, 4, 8, 16)
SUMMED = ("gauss-newton", "adam", "cma-es")
PLAN = {
    "none": (*SUMMED, "block-cma-es:recombine=1", "block-cma-es", "ig"),
    "prune:0.9": ("gauss-newton", "adam"),
}
"""Strategies against each defense: of 2 and 16 images `SUMMED` alone, without a defense."""

RESULTS = Path(__file__).parents[1] / "results"
CELLS, TABLE = RESULTS / "batches.json", RESULTS / "batches.md"
KEPT = ("verdict", "leak_score", "identification", "psnr", "label_recovery")
"""Of an audit's cell."""

HEADINGS = (
    *("images a gradient", "defense", "strategy", "leak score", "identified", "PSNR, attack"),
    *("PSNR, control", "labels read off", "verdict"),
)


@dataclass(frozen=True)
class Task:
    """One cell."""

    size: int
    defense: str
    strategy: str


def private_rows() -> torch.Tensor:
    """Return the rows of every client's images, (clients, largest batch), drawn by eights."""
    order = torch.randperm(len(load_dataset(HELDOUT).labels), generator=stream(SEED, "batches"))
    return torch.cat([part.view(CLIENTS, 8) for part in order.split(CLIENTS * 8)[: max(SIZES) // 8]], dim=1)


def ceilings() -> torch.Tensor:
    """Return the prior's best image of every private one, (clients, largest batch, c, h, w)."""
    data, rows = load_dataset(HELDOUT), private_rows()
    found = ggl.invert(
        data.images[rows.flatten()],
        data.labels[rows.flatten()],
        prior=ggl.load_prior(PRIOR),
        budget=CEILING_BUDGET,
        seed=SEED,
    )
    images: torch.Tensor = torch.cat([result.images for result in found])
    return images.view(*rows.shape, *images.shape[1:])


def run(task: Task, ceiling: torch.Tensor) -> dict[str, Any]:
    """Return a cell's figures, and those of its strongest control."""
    torch.set_num_threads(1)
    data = load_dataset(HELDOUT)
    rows = private_rows()[:, : task.size].flatten()
    report = ggl.audit(
        ggl.load_victim(VICTIM, in_channels=1, num_classes=10, image_size=32, seed=SEED),
        data.images[rows],
        data.labels[rows],
        prior=ggl.load_prior(PRIOR),
        defenses=[task.defense],
        strategies=[task.strategy],
        batch_size=task.size,
        budget=BUDGET,
        ceiling=ceiling[:, : task.size].flatten(0, 1),
        seed=SEED,
    )
    result: Any = report.to_dict()
    (cell,) = result["results"]
    control = cell["leak_score"]["control"]
    return {
        "size": task.size,
        "defense": task.defense,
        "strategy": task.strategy,
        **{key: cell[key] for key in KEPT},
        "control_psnr": cell["controls"][control]["psnr"],
        "ceiling_psnr": result["ceiling"]["psnr"],
        "seconds": result["timing"]["cells"][0],
    }


def page(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return the Markdown page."""
    order = {(t.size, t.defense, t.strategy): k for k, t in enumerate(tasks())}
    ordered = sorted(cells, key=lambda c: order[c["size"], c["defense"], c["strategy"]])
    settings = (
        "Made by `python benchmarks/studies/batches.py`; the settings are in that file. "
        f"{CLIENTS} batches each, {BUDGET:,} evaluations. "
        "Means over batches with 95 % intervals; a control is the strongest one."
    )
    return f"# What a batch hides\n\n{settings}\n\n{markdown_table(HEADINGS, map(_texts, ordered))}\n"


def _texts(cell: Mapping[str, Any]) -> Sequence[str]:
    return (
        str(cell["size"]),
        cell["defense"],
        cell["strategy"],
        figure_text(cell["leak_score"]),
        figure_text(cell["identification"]),
        figure_text(cell["psnr"], ".1f"),
        f"{figure_text(cell['control_psnr'], '.1f')} ({cell['leak_score']['control']})",
        figure_text(cell["label_recovery"]),
        cell["verdict"],
    )


def tasks() -> list[Task]:
    """Return every cell, in the table's order."""
    every = [Task(b, d, s) for b in SIZES for d, strategies in PLAN.items() for s in strategies]
    return [t for t in every if t.size not in (2, 16) or (t.strategy in SUMMED and t.defense == "none")]


def main() -> None:
    """Run what is not there yet, write the cells and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    workers = parser.parse_args().workers
    cells: list[dict[str, Any]] = json.loads(CELLS.read_text()) if CELLS.exists() else []
    done = {(c["size"], c["defense"], c["strategy"]) for c in cells}
    left = [t for t in tasks() if (t.size, t.defense, t.strategy) not in done]
    left.sort(key=lambda task: (task.strategy == "ig", task.defense != "none", task.strategy not in SUMMED))
    ceiling = ceilings() if left else torch.empty(0)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(run, task, ceiling) for task in left]):
            cells.append(future.result())
            write_atomically(CELLS, json.dumps(cells, indent=1).encode())
            print(cells[-1]["size"], cells[-1]["defense"], cells[-1]["strategy"], cells[-1]["verdict"])
    write_atomically(TABLE, page(cells).encode())


if __name__ == "__main__":
    main()
