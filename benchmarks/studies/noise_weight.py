"""When to stop fitting noise: the maximum a posteriori beside the cosine and its shell penalty.

    python benchmarks/studies/noise_weight.py [--workers 2]

A gradient s under Gaussian noise of standard deviation σ has the posterior ‖F(z) - s‖² / σ² + ‖z‖², up to a
constant. In units of ‖F - s‖² that is the distance `l2` with `ridge:σ²`; on the shell, where a Gaussian's
latents lie, -2 log p(‖z‖) ≈ 2 (‖z‖ - √d)² ≈ the prior's penalty, and it is `l2` with `shell:σ²`. Both know σ.
The cosine knows none: its rules are the default `shell:0.001`, no penalty, and a weight that is the
posterior's, σ² / (2 ‖F‖ ‖s‖), as it is for the victim's gradients on average.

Written down before it was run: images, seeds, noise and victims of `strategies.py`; 1,000 evaluations; Adam,
which any objective suits, and `gauss-newton`, whose own shell weight goes with the cosine's rule. Nothing was
tuned. PSNR with 95 % intervals over images, and paired differences from the default.
"""

import argparse
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ggl.base.files import write_atomically
from ggl.benchmarks.studies.strategies import Bench
from ggl.benchmarks.studies.strategies_cells import StudyCell
from ggl.benchmarks.studies.tables import figure_text, markdown_table
from ggl.measures.leakage import score
from ggl.measures.statistics import bootstrap_mean

LEVELS = (("lenet", 0.2), ("mlp", 0.005), ("mlp", 0.02))
"""Victims, and standard deviations of the noise: of the victim's gradients, and four times that."""

OBJECTIVES = (
    *(("cosine", "shell:0.001"), ("cosine", "free"), ("cosine", "shell:posterior")),
    *(("l2", "shell:posterior"), ("l2", "ridge:posterior")),
)
"""Distance and latent rule; the first is the default."""

STRATEGIES = ("adam", "gauss-newton")
BUDGET = 1_000
TABLE = Path(__file__).parents[1] / "results" / "noise-weight.md"


@dataclass(frozen=True)
class Task:
    """One cell."""

    victim: str
    sigma: float
    strategy: str
    distance: str
    rule: str


def posterior_weight(bench: Bench, sigma: float, distance: str) -> float:
    """Return the penalty's weight that makes a distance and it the posterior, on the average image."""
    if distance == "l2":
        return sigma * sigma
    squares = [float(sum(t.square().sum() for t in v.target.values())) for v in bench.objective.views]
    size = sum(t.numel() for t in bench.objective.views[0].target.values())
    lengths = [math.sqrt(max(s - size * sigma * sigma, 0.0) * s) for s in squares]
    return sigma**2 / (2 * sum(lengths) / len(lengths))


def run(task: Task) -> NDArray[np.float64]:
    """Return the PSNR of every search, (images, seeds)."""
    torch.set_num_threads(1)
    defense = f"noise:{task.sigma:g}"
    bench = Bench(task.victim, defense, task.distance)
    weight = posterior_weight(bench, task.sigma, task.distance)
    rule = task.rule.replace("posterior", f"{weight:.3g}")
    results = bench.search(StudyCell(task.victim, defense, task.strategy, (BUDGET,), rule)).run()
    scores = score(torch.cat([r.images for r in results]), bench.images, bench.decoys, {})
    return np.array(scores.values["psnr"], dtype=np.float64).reshape(-1, bench.seeds)


def page(found: dict[Task, NDArray[np.float64]]) -> str:
    """Return the Markdown page."""
    rows = []
    for task, values in found.items():
        default = found[Task(task.victim, task.sigma, task.strategy, *OBJECTIVES[0])]
        own = default is values
        rows.append(
            (
                *(task.victim, f"{task.sigma:g}", task.strategy, task.distance, task.rule),
                figure_text(bootstrap_mean(values.mean(1)), ".1f"),
                "" if own else figure_text(bootstrap_mean((values - default).mean(1)), "+.1f"),
            )
        )
    headings = ("victim", "σ", "strategy", "distance", "latents", "PSNR, dB", "less the default's")
    settings = "Made by `python benchmarks/studies/noise_weight.py`; the settings are in that file."
    return f"# The weight of a prior under noise\n\n{settings}\n\n{markdown_table(headings, rows)}\n"


def tasks() -> Sequence[Task]:
    """Return every cell, in the table's order."""
    return [Task(*level, s, *objective) for level in LEVELS for s in STRATEGIES for objective in OBJECTIVES]


def main() -> None:
    """Run everything and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    with ProcessPoolExecutor(parser.parse_args().workers, mp_context=get_context("spawn")) as pool:
        found = dict(zip(tasks(), pool.map(run, tasks()), strict=True))
    write_atomically(TABLE, page(found).encode())


if __name__ == "__main__":
    main()
