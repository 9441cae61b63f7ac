"""Cheaper losses: whether they rank candidates as the exact one does, and what a search by them finds.

    python benchmarks/studies/cheap_losses.py [--victims lenet mlp convnet resnet18] [--only ranks search]

Settings were written down before anything was run. Held-out Fashion-MNIST images, one of each of the first
six classes, `fashion-dcgan32`, cosine, labels known, no defense; LeNet and ConvNet under noise of about
their gradients' size too.

**Ranks.** Of every image three populations of 64 candidates: the prior's samples, and latents at distances
of 0.3 and 0.1 standard deviations a coordinate around what `gauss-newton` finds in 500 evaluations. Kendall's
τ between the exact loss and a cheaper one, mean over images with its 95 % interval (bootstrap-t): the last
layer alone (a forward pass), the last two layers with parameters, the first half of the parameters' tensors,
and all in bfloat16. Seconds are a population's, of the exact loss's; the losses take turns.

**Search.** `gauss-newton` that compares all, and `gauss-newton:layers=head`, at the same evaluations. PSNR,
mean over images with its interval, the paired difference, and a search's CPU seconds, one thread.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from scipy.stats import kendalltau
from torch import Tensor

from ggl.attacks.head import head_alone
from ggl.attacks.inversion import attack_many
from ggl.attacks.target import Target
from ggl.base.files import write_atomically
from ggl.base.random import stream
from ggl.benchmarks.studies.tables import figure_text, markdown_table
from ggl.datasets.loading import load_dataset
from ggl.datasets.picking import pick_private
from ggl.defenses import load_defense
from ggl.generators import load_prior
from ggl.gradients import GradientOracle, View
from ggl.measures.metrics import psnr
from ggl.measures.statistics import bootstrap_mean
from ggl.victims import load_victim

PRIOR, DATA = "fashion-dcgan32", "fashion-mnist-heldout"
IMAGES, POPULATION, REPEATS = 6, 64, 3
CELLS = (
    *(("lenet", "none"), ("lenet", "noise:0.2"), ("mlp", "none")),
    *(("convnet", "none"), ("convnet", "noise:0.0025"), ("resnet18", "none")),
)
PLACES = ("samples", "0.3", "0.1")
BUDGETS = (250, 500, 1_000)
WHOLE, HEAD = "gauss-newton", "gauss-newton:layers=head"

RESULTS = Path(__file__).parents[1] / "results"
Record = dict[str, Any]


class Cell:
    """A victim, a defense, and what six clients shared."""

    def __init__(self, victim: str, defense: str) -> None:
        data = load_dataset(DATA)
        rows = pick_private(data.labels, 10, 0)[:IMAGES]
        self.images, self.labels, self.defense = data.images[rows], data.labels[rows], load_defense(defense)
        self.prior = load_prior(PRIOR)
        self.victim = load_victim(victim, in_channels=1, num_classes=10, image_size=32, seed=0)
        self.oracle = GradientOracle(self.victim)
        self.targets = [
            Target(f"image {i}", self.defense.protect(self.observed(i), stream(0, "client", i)), label[None])
            for i, label in enumerate(self.labels)
        ]

    def observed(self, i: int) -> dict[str, Tensor]:
        """Return an image's gradient."""
        return self.oracle.observe(self.images[i : i + 1], self.labels[i : i + 1])

    def search(self, strategy: str, budget: int) -> tuple[list[float], list[Tensor], float]:
        """Return PSNRs, latents and a search's CPU seconds."""
        started = time.process_time()
        found = attack_many(
            self.oracle,
            self.targets,
            prior=self.prior,
            strategy=strategy,
            defense=self.defense,
            budget=budget,
        )
        seconds = (time.process_time() - started) / IMAGES
        errors = psnr(torch.cat([result.images for result in found]), self.images)
        return errors.tolist(), [result.latents[0] for result in found], seconds

    def losses(self, view: View) -> dict[str, tuple[GradientOracle, View]]:
        """Return the exact loss, first, and the cheaper ones."""
        names = list(view.target)
        layers = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
        last = frozenset(name for name in names if name.rpartition(".")[0] not in layers[-2:])
        early = view.ignored | frozenset(names[len(names) // 2 :])
        return {
            "exact": (self.oracle, view),
            "head": (self.oracle, head_alone(view, self.oracle, self.prior.image_shape)),
            "last two layers": (self.oracle, View(view.target, view.steps, view.ignored | last)),
            "first half": (self.oracle, View(view.target, view.steps, early)),
            "bfloat16": (GradientOracle(self.victim, precision="bfloat16"), view),
        }


def ranks(victim: str, defense: str) -> list[Record]:
    """Return τ of every cheaper loss on every population, and its share of the exact one's seconds."""
    cell = Cell(victim, defense)
    _, latents, _ = cell.search(WHOLE, BUDGETS[1])
    found: dict[tuple[str, str], list[float]] = {}
    seconds: dict[str, list[float]] = {}
    for i, (target, center) in enumerate(zip(cell.targets, latents, strict=True)):
        losses, label = cell.losses(cell.defense.view(target.shared)), cell.labels[i : i + 1]
        for place in PLACES:
            drawn = cell.prior.sample(POPULATION, stream(i, "population", place))
            z = drawn if place == "samples" else center + float(place) * drawn
            with torch.no_grad():
                candidates = cell.prior.decode(z, label.expand(POPULATION))
            scores = {}
            for _ in range(REPEATS):
                for name, (oracle, view) in losses.items():
                    started = time.perf_counter()
                    scores[name] = oracle.score(candidates, label, view, "cosine")
                    seconds.setdefault(name, []).append(time.perf_counter() - started)
            for name, loss in scores.items():
                tau = float(kendalltau(loss.numpy(), scores["exact"].numpy()).statistic)
                found.setdefault((name, place), []).append(tau)
    exact = median(seconds.pop("exact"))
    return [
        {
            "victim": victim,
            "defense": defense,
            "loss": name,
            "share": round(median(times) / exact, 3),
            **{place: [round(tau, 4) for tau in found[name, place]] for place in PLACES},
        }
        for name, times in seconds.items()
    ]


def searches(victim: str, defense: str) -> list[Record]:
    """Return the PSNR of every image by both searches at every budget."""
    cell, rows = Cell(victim, defense), []
    for budget in BUDGETS:
        for strategy in (WHOLE, HEAD):
            errors, _, seconds = cell.search(strategy, budget)
            rows.append(
                {
                    "victim": victim,
                    "defense": defense,
                    "strategy": strategy,
                    "budget": budget,
                    "psnr": [round(error, 2) for error in errors],
                    "seconds": round(seconds, 3),
                }
            )
    return rows


def page(rows: dict[str, list[Record]]) -> str:
    """Return both tables."""
    ranked = [
        (
            *(row["victim"], row["defense"], row["loss"], f"{row['share']:.2f}"),
            *(figure_text(bootstrap_mean(row[place])) for place in PLACES),
        )
        for row in rows["ranks"]
    ]
    by = {(r["victim"], r["defense"], r["budget"], r["strategy"]): r for r in rows["search"]}
    searched = []
    for (victim, defense, budget, strategy), whole in by.items():
        if strategy == WHOLE and (victim, defense, budget, HEAD) in by:
            head = by[victim, defense, budget, HEAD]
            gains = [a - b for a, b in zip(head["psnr"], whole["psnr"], strict=True)]
            searched.append(
                (
                    *(victim, defense, f"{budget:,}"),
                    *(figure_text(bootstrap_mean(run["psnr"]), ".1f") for run in (whole, head)),
                    figure_text(bootstrap_mean(gains), "+.1f"),
                    *(f"{run['seconds']:.2f}" for run in (whole, head)),
                )
            )
    places = ("τ on samples", "0.3 around the end", "0.1 around the end")
    first = markdown_table(("victim", "defense", "loss", "share of seconds", *places), ranked)
    headings = (
        *("victim", "defense", "evaluations", "all layers, dB", "head, dB", "head - all"),
        *("all layers, s", "head, s"),
    )
    return f"# Cheaper losses\n\n{first}\n\n{markdown_table(headings, searched)}\n"


KINDS: dict[str, Callable[[str, str], list[Record]]] = {"ranks": ranks, "search": searches}


def run(victims: Sequence[str], kinds: Sequence[str]) -> None:
    """Run what is missing, cell by cell, and write the results after each."""
    path = RESULTS / "cheap-losses.json"
    rows = json.loads(path.read_text()) if path.exists() else {kind: [] for kind in KINDS}
    for kind in kinds:
        for victim, defense in CELLS:
            done = any((row["victim"], row["defense"]) == (victim, defense) for row in rows[kind])
            if victim in victims and not done:
                rows[kind] += KINDS[kind](victim, defense)
                write_atomically(path, (json.dumps(rows, indent=1) + "\n").encode())
                write_atomically(RESULTS / "cheap-losses.md", page(rows).encode())
                print(kind, victim, defense, flush=True)


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = list(dict.fromkeys(victim for victim, _ in CELLS))
    parser.add_argument("--victims", nargs="+", default=every, choices=every)
    parser.add_argument("--only", nargs="+", default=list(KINDS), choices=list(KINDS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    run(options.victims, options.only)


if __name__ == "__main__":
    main()
