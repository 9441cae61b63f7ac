"""How many labels of a batch each method reads off a gradient, under every defense.

    python benchmarks/studies/labels.py --data PATH/fashion-mnist.npz

Settings were written down before anything was run. Batches of held-out Fashion-MNIST: labels drawn uniformly
with replacement, then an image of each, every image once. Victims as `VICTIMS` says; the trained one is the
MLP after `STEPS` SGD steps on Fashion-MNIST's training split, and is left out without `--data`. Methods
that need a model average over dummy images: uniform noise, or samples of the embedded prior, as many. Every
method meets the same shared gradients. Cells whose results are there are not run again.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import ggl
from ggl.attacks.label_inference import DUMMIES, chance_accuracy, infer_labels, label_accuracy
from ggl.base.files import write_atomically
from ggl.base.random import stream, stream_seed
from ggl.benchmarks.studies.tables import interval_text, markdown_table, read_csv, write_csv
from ggl.datasets.loading import Dataset, load_dataset
from ggl.defenses import Client, Defense, load_defense
from ggl.gradients import GradientOracle, Gradients
from ggl.measures.statistics import bootstrap_mean
from ggl.victims import load_victim

PRIOR, HELDOUT = "fashion-dcgan32", "fashion-mnist-heldout"
SHAPE, CLASSES, SEED, ROUNDS = (1, 32, 32), 10, 0, 10_000
VICTIMS = ("lenet", "mlp", "mlp, trained")
SIZES = (1, 2, 4, 8, 16)
BATCHES = 20
FEW = {("soteria:0.8", "lenet"): 6}
"""Batches of what is slow: Soteria on LeNet takes a second for eight images."""

DEFENSES = (
    *("none", "noise:0.01", "noise:0.1", "laplace:0.1", "clip:1", "clip-layer:0.1"),
    *("prune:0.9", "prune:0.99", "prune-global:0.99", "top-k:0.01,momentum=0"),
    *("sign", "qsgd:2", "qsgd:2,norm=max"),
    *("soteria:0.8", "outpost", "orthogonal"),
    *("precode", "cvb", "ppp:noise=0.1", "ppp:prune=0.9"),
    *("dp-sgd:4,0.5", "fed-cdp:4,0.5", "dynamic-dp:linear", "clip:4+noise:0.1+prune:0.9"),
)
UNFIT = {("cvb", "mlp"), ("cvb", "mlp, trained")}
"""The convolutional bottleneck needs convolutions."""

METHODS = {
    "analytic": ("analytic", None),
    "LLG": ("wainakh", None),
    "LLG*, noise": ("wainakh", "noise"),
    "LLG*, prior": ("wainakh", "prior"),
    "geng, noise": ("geng", "noise"),
    "geng, prior": ("geng", "prior"),
    "geng-bias, noise": ("geng-bias", "noise"),
    "geng-bias, prior": ("geng-bias", "prior"),
}
"""What a column is: a method of `infer_labels`, and the dummy images that it is given."""

STEPS, STEP_BATCH, RATE = 500, 64, 0.1

RESULTS = Path(__file__).parents[1] / "results" / "labels.csv"

HEADER = f"""\
# Labels of a batch, read off its gradient

Made by `python benchmarks/studies/labels.py --data PATH/fashion-mnist.npz`; \
the settings are in that file.
A cell is the mean share of labels found (intersection of the multisets, by B) with its 95 %
bootstrap interval over {BATCHES} batches ({FEW["soteria:0.8", "lenet"]} for LeNet under Soteria).
Methods are those of `ggl/attacks/label_inference.py`; \
LLG* and geng average the model over {DUMMIES} dummy images,
of noise or of the embedded prior. Chance draws B labels uniformly.
"""


@dataclass(frozen=True)
class Row:
    """A method's accuracy over batches with its 95 % interval, and how often all counts are exact."""

    victim: str
    defense: str
    method: str
    batch_size: int
    batches: int
    accuracy: float
    low: float
    high: float
    exact: float
    chance: float


def trained(victim: nn.Module, path: str) -> nn.Module:
    """Return the victim after a few hundred steps of SGD."""
    data = load_dataset(path, split="train", image_shape=SHAPE, fit="pad")
    optimizer = torch.optim.SGD(victim.parameters(), lr=RATE)
    random = stream(SEED, "label training")
    for _ in range(STEPS):
        rows = torch.randint(len(data.labels), (STEP_BATCH,), generator=random)
        optimizer.zero_grad()
        nn.functional.cross_entropy(victim(data.images[rows]), data.labels[rows]).backward()
        optimizer.step()
    return victim


def victims_of(path: str | None) -> Iterator[tuple[str, nn.Module]]:
    """Yield the victims with their names."""
    for name in VICTIMS:
        kind, _, state = name.partition(", ")
        victim = load_victim(kind, in_channels=1, num_classes=CLASSES, image_size=32, seed=SEED)
        if not state:
            yield name, victim
        elif path is not None:
            yield name, trained(victim, path)


def batch(data: Dataset, size: int, number: int) -> Tensor:
    """Return the rows (size,) of a batch whose labels were drawn uniformly with replacement."""
    random = stream(SEED, "label batch", size, number)
    wanted = torch.randint(CLASSES, (size,), generator=random)
    order = torch.randperm(len(data.labels), generator=random)
    rows: list[int] = []
    for label in wanted.tolist():
        rows.append(next(i for i in order.tolist() if data.labels[i] == label and i not in rows))
    return torch.tensor(rows)


def shared(defense: Defense, oracle: GradientOracle, data: Dataset, rows: Tensor, number: int) -> Gradients:
    """Return what a client with these images shares."""
    client = Client(
        oracle,
        data.images[rows],
        data.labels[rows],
        seed=stream_seed(SEED, "label client", len(rows), number),
        rounds=ROUNDS,
    )
    return defense.share(client, stream(SEED, "label defense", defense.name, len(rows), number))


def measure(
    name: str, victim_name: str, victim: nn.Module, data: Dataset, dummies: Mapping[str, Tensor]
) -> list[Row]:
    """Return every method's accuracy under one defense."""
    defense = load_defense(name)
    model = defense.wrap(victim, SEED)
    oracle = GradientOracle(model)
    found = []
    for size in SIZES:
        accuracies: dict[str, list[float]] = {column: [] for column in METHODS}
        for number in range(FEW.get((name, victim_name), BATCHES)):
            rows = batch(data, size, number)
            gradients = shared(defense, oracle, data, rows, number)
            for column, (method, kind) in METHODS.items():
                known = None if kind is None else model
                images = None if kind is None else dummies[kind]
                labels = infer_labels(gradients, size, method, model=known, dummies=images)
                if labels is None:
                    raise RuntimeError(f"{victim_name} has no last matrix")
                accuracies[column].append(label_accuracy(labels, data.labels[rows]))
        found += [row_of(victim_name, name, column, size, a) for column, a in accuracies.items()]
    return found


def row_of(victim: str, defense: str, method: str, size: int, accuracies: Sequence[float]) -> Row:
    """Return the figures of one cell."""
    interval = bootstrap_mean(accuracies)
    exact = float(np.mean(np.array(accuracies) == 1))
    return Row(
        victim=victim,
        defense=defense,
        method=method,
        batch_size=size,
        batches=len(accuracies),
        accuracy=round(interval.mean, 4),
        low=round(interval.low, 4),
        high=round(interval.high, 4),
        exact=round(exact, 4),
        chance=round(chance_accuracy(size, CLASSES), 4),
    )


def write(rows: Sequence[Row]) -> None:
    """Write the rows, in the order in which they were run."""
    write_csv(RESULTS, Row, rows)
    write_atomically(RESULTS.with_suffix(".md"), "\n".join(page(rows)).encode())


def page(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the Markdown page, part by part."""
    yield HEADER
    yield from means(rows)
    yield from strongest(rows)
    ordered = sorted(rows, key=lambda row: (VICTIMS.index(row.victim), row.batch_size))
    for (victim, size), group in groupby(ordered, key=lambda row: (row.victim, row.batch_size)):
        yield from table(victim, size, list(group))


def means(rows: Sequence[Row]) -> Iterator[str]:
    """Yield every method's mean accuracy, without a defense and under all of them."""
    lines = []
    for title, chosen in (("none", ("none",)), ("all of these", DEFENSES)):
        some = [row for row in rows if row.defense in chosen and row.batch_size > 1]
        found = [np.mean([r.accuracy for r in some if r.method == column] or [np.nan]) for column in METHODS]
        lines.append((title, *(f"{mean:.3f}" for mean in found)))
    yield "## The mean over victims and B > 1\n"
    yield markdown_table(("defenses", *METHODS), lines)


def strongest(rows: Sequence[Row]) -> Iterator[str]:
    """Yield every defense's most accurate method for each B."""
    yield "\n## What the strongest method finds\n"
    yield "The best of the columns below, chosen after the fact, and so a little too high.\n"
    lines = []
    for (victim, defense), group in groupby(rows, key=lambda row: (row.victim, row.defense)):
        cells = list(group)
        best = [max((r for r in cells if r.batch_size == s), key=lambda r: r.accuracy) for s in SIZES]
        lines.append((victim, defense, *(f"{row.accuracy:.2f} {row.method}" for row in best)))
    yield markdown_table(("victim", "defense", *(f"B = {size}" for size in SIZES)), lines)
    texts = " | ".join(f"{chance_accuracy(size, CLASSES):.2f}" for size in SIZES)
    yield f"| | chance | {texts} |"


def table(victim: str, size: int, rows: Sequence[Row]) -> Iterator[str]:
    """Yield one victim's table for one batch size."""
    yield f"\n## {victim}, B = {size}, chance {rows[0].chance:.2f}\n"
    lines = []
    for defense in DEFENSES:
        cells = {row.method: row for row in rows if row.defense == defense}
        if cells:
            found = (cells[column] for column in METHODS)
            lines.append((defense, *(interval_text(row.accuracy, row.low, row.high) for row in found)))
    yield markdown_table(("defense", *METHODS), lines)


def prior_images() -> Tensor:
    """Return samples of the embedded prior, of uniformly drawn classes if it has any."""
    prior, random = ggl.load_prior(PRIOR), stream(SEED, "label prior")
    labels = torch.randint(prior.num_classes or 1, (DUMMIES,), generator=random)
    with torch.no_grad():
        return prior.decode(prior.sample(DUMMIES, random), labels).clamp(0, 1)


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", help="Fashion-MNIST as .npz, with train_ and test_ arrays")
    path = parser.parse_args().data
    torch.set_num_threads(1)
    data, rows = load_dataset(HELDOUT), read_csv(RESULTS, Row)
    noise = torch.rand((DUMMIES, *SHAPE), generator=stream(SEED, "label dummies"))
    dummies = {"noise": noise, "prior": prior_images()}
    there = {(row.victim, row.defense) for row in rows}
    for victim_name, victim in victims_of(path):
        right = (victim(data.images).argmax(1) == data.labels).float().mean()
        print(f"{victim_name}: accuracy {right:.3f} on the held-out images", flush=True)
        for name in DEFENSES:
            if (victim_name, name) not in there and (name, victim_name) not in UNFIT:
                rows += measure(name, victim_name, victim, data, dummies)
                write(rows)
                print(f"{victim_name}, {name}", flush=True)
    write(rows)


if __name__ == "__main__":
    main()
