"""Epochs whose order nobody knows: what shuffling hides, and what an order-invariant attack gets back.

    python benchmarks/studies/epochs.py

Eight clients hold four images of the held-out ones
each, drawn at random, and take three epochs of local steps of two images at a learning rate of 0.05, every
epoch in an order of its own, on an untrained LeNet. Labels and the training are known; Adam searches the
embedded prior with equal objective evaluations. What differs is what an attacker makes of the order: is
told it, guesses one, simulates steps on the whole batch, or searches a copy of every image for each epoch,
tied together by a penalty on epochs' mean images (Dimitrov et al., arXiv 2206.12395), or not tied (weight
0). The controls are the attack that knows the order and that of tied copies, which averages images as well,
on updates of other images with the same labels. Figures are over clients; differences are paired with the
guess. Settings were written down before a result was there, clients and evaluations as the machine's time
allowed; the control of tied copies was added after the first table, and stands beside the untied ones too.
"""

import json
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import ggl
from ggl.attacks.course import SearchResult
from ggl.base.files import write_atomically
from ggl.base.random import stream
from ggl.benchmarks.studies.tables import figure_text, markdown_table
from ggl.measures.metrics import match
from ggl.measures.statistics import bootstrap_mean, paired_test

CLIENTS, IMAGES, SIZE, RATE, BUDGET, SEED = 8, 4, 2, 0.05, 100, 0
EPOCHS = (3,)
Arm: TypeAlias = tuple[str, float | None]

ARMS: Sequence[Arm] = (
    ("known", None),
    ("guessed", None),
    ("whole", None),
    ("copies", 0.0),
    ("copies", 1.0),
)
"""What an attacker makes of the order, and the weight that ties copies."""

RESULTS = Path(__file__).parents[1] / "results"
CELLS, TABLE = RESULTS / "epochs.json", RESULTS / "epochs.md"
HEADINGS = (
    "epochs",
    "order",
    "PSNR",
    "better than the guess by",
    "than its control",
    "evaluations",
    "CPU seconds",
)


def clients() -> tuple[Tensor, Tensor, Tensor]:
    """Return every client's images (clients, b, c, h, w), others with the same labels, and labels."""
    data = ggl.load_dataset("fashion-mnist-heldout")
    order = torch.randperm(len(data.labels), generator=stream(SEED, "epochs")).tolist()
    rows, rest = order[: CLIENTS * IMAGES], order[CLIENTS * IMAGES :]
    siblings = [
        next(k for k in rest[7 * i :] if data.labels[k] == data.labels[r]) for i, r in enumerate(rows)
    ]
    shape = (CLIENTS, IMAGES, *data.images.shape[1:])
    return data.images[rows].view(shape), data.images[siblings].view(shape), data.labels[rows].view(shape[:2])


def psnr(found: Tensor, private: Tensor) -> float:
    """Return a batch's mean PSNR in dB, its images matched to the private ones."""
    errors = (found[match(found, private)] - private).square().flatten(1).mean(1)
    return float((-10 * errors.log10()).mean())


def attacked(epochs: int, arm: Arm, private: Tensor, labels: Tensor) -> list[SearchResult]:
    """Attack every client's update."""
    order, tie = arm
    local = ggl.LocalTraining(epochs * IMAGES // SIZE, RATE, batch_size=SIZE, order="known", order_seed=1)
    victim = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32, seed=SEED)
    client = ggl.GradientOracle(victim, local=local)
    batches = list(zip(private, labels, strict=True))
    return ggl.attack_many(
        ggl.GradientOracle(victim, local=replace(local, order=order, tie=tie or 0.0)),
        [ggl.Target(f"client {k}", client.observe(x, y), y) for k, (x, y) in enumerate(batches)],
        prior=ggl.load_prior("fashion-dcgan32"),
        strategy="adam:starts=1",
        budget=BUDGET,
        seed=SEED,
    )


def cells(done: Container[tuple[int, str, float | None]]) -> Iterator[dict[str, Any]]:
    """Yield every cell that is not done: each arm on the private images, and the controls."""
    private, siblings, labels = clients()
    for epochs in EPOCHS:
        for name, arm, images in (
            *((arm[0], arm, private) for arm in ARMS),
            ("control, known", ARMS[0], siblings),
            ("control, copies", ARMS[-1], siblings),
        ):
            if (epochs, name, arm[1]) in done:
                continue
            started = time.process_time()
            results = attacked(epochs, arm, images, labels)
            yield {
                "epochs": epochs,
                "order": name,
                "tie": arm[1],
                "psnr": [psnr(r.images, x) for r, x in zip(results, private, strict=True)],
                "evaluations": results[0].evaluations,
                "seconds": round((time.process_time() - started) / CLIENTS, 2),
            }


def page(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the Markdown page."""
    settings = (
        "Made by `python benchmarks/studies/epochs.py`; the settings are in that file. "
        f"{CLIENTS} clients of {IMAGES} images, local steps of {SIZE}; PSNR in dB, means over clients with "
        "95 % intervals; differences and p (sign flips) are paired by client. A control is the same attack "
        "on updates of other images: with copies for copies, else with the known order."
    )
    values = {(c["epochs"], c["order"]): np.array(c["psnr"]) for c in found}
    rows = [_texts(cell, values) for cell in found]
    return f"# Epochs whose order nobody knows\n\n{settings}\n\n{markdown_table(HEADINGS, rows)}\n"


def _texts(cell: Mapping[str, Any], values: Mapping[tuple[int, str], NDArray[np.float64]]) -> Sequence[str]:
    epochs, name = cell["epochs"], cell["order"]
    control = "control, copies" if name == "copies" else "control, known"
    return (
        str(epochs),
        name if cell["tie"] is None else f"{name}, tie {cell['tie']:g}",
        figure_text(bootstrap_mean(np.array(cell["psnr"])), ".1f"),
        "" if name == "guessed" else _difference(cell["psnr"], values[epochs, "guessed"]),
        "" if name.startswith("control") else _difference(cell["psnr"], values[epochs, control]),
        str(cell["evaluations"]),
        f"{cell['seconds']:.1f}",
    )


def _difference(a: Sequence[float], b: NDArray[np.float64]) -> str:
    return f"{figure_text(bootstrap_mean(np.array(a) - b), '+.2f')}, p = {paired_test(np.array(a), b):.3f}"


def main() -> None:
    """Run what is not there yet, write the cells and the table."""
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = json.loads(CELLS.read_text()) if CELLS.exists() else []
    for cell in cells({(c["epochs"], c["order"], c["tie"]) for c in found}):
        found.append(cell)
        print(
            cell["epochs"],
            cell["order"],
            cell["tie"],
            f"{np.mean(cell['psnr']):.2f}",
            cell["seconds"],
            flush=True,
        )
        write_atomically(CELLS, json.dumps(found, indent=1).encode())
    write_atomically(TABLE, page(found).encode())


if __name__ == "__main__":
    main()
