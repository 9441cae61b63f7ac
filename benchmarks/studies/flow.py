r"""Flow-matching priors beside the GAN: ceilings, samples and leaks at equal evaluations.

    python -m ggl.generators.flow.train --data fashion-mnist.npz --fit pad --out CODES \
        --code 128 --code-steps 3000 --steps 8000
    python -m ggl.generators.flow.train --data fashion-mnist.npz --fit pad --out PIXELS --code 0 --steps 4000
    ggl prior-report fashion-dcgan32 flow:CODES/flow.safetensors flow:PIXELS/flow.safetensors,steps=4 \
        --data clothes=fashion-mnist-heldout --data digits=mnist.npz --fit pad --images 12 --budget 1000 \
        --out REPORT
    python benchmarks/studies/flow.py --codes CODES/flow.safetensors --pixels PIXELS/flow.safetensors \
        --data fashion-mnist.npz --digits mnist.npz --report REPORT

Written down before it was run: two flows of the same training images, one over the 128 numbers of an
autoencoder's code (8 steps), one over pixels, whose noise has 1,024 (4 steps: with 8 it takes twice the
time). Ceilings: those of `ggl prior-report`, Adam, 1,000 evaluations, 12 images a set. Samples: 200 a class,
recognized by the judge of `ggl.generators.bundled.quality`, here after one pass over the training images.
Attacks: an untrained LeNet, eight clients of one image each of another class, 2,000 evaluations, the adaptive
attacker, the same images, seeds and controls for all priors. Clothes are held-out ones, digits are out of
every prior's domain; of a digit the attacker knows the label, which is a class of clothes to the priors.
`ATTACKS` names the cells, in the order in which they are run, the most telling first; the flow over pixels
is attacked without a defense alone. Intervals are over images; differences from the GAN are paired by image.
A cell is saved as it ends, and not run again. What had been seen before, of other images: ceilings of eight,
and Gauss-Newton on four without a defense, through the GAN and the flow of codes. For want of time alone the
cells of the flow over pixels were put behind others after the first two cells, the judge's passes cut from
two to one, and the last cells of the list left to whoever runs the script again.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ggl
from ggl.base.files import write_atomically
from ggl.base.random import stream
from ggl.benchmarks.studies.tables import figure_text, markdown_table
from ggl.datasets.loading import Dataset, load_dataset
from ggl.datasets.picking import pick_private
from ggl.generators import Prior
from ggl.generators.bundled.quality import Classifier, accuracy, pairwise_distance, train_classifier
from ggl.measures.statistics import bootstrap_mean

GAN = "fashion-dcgan32"
CODES, PIXELS = "flow of codes", "flow of pixels"
IMAGES, BUDGET, SEED, SHAPE = 8, 2000, 0, (1, 32, 32)
JUDGED, JUDGE_EPOCHS, DECOYS = 200, 1, 100
ATTACKS: Sequence[tuple[str, str, str, Sequence[str]]] = (
    ("clothes", "none", "gauss-newton", (GAN, CODES)),
    ("clothes", "none", "adam", (GAN, CODES)),
    ("digits", "none", "gauss-newton", (GAN, CODES)),
    ("clothes", "noise:0.1", "gauss-newton", (GAN, CODES)),
    ("clothes", "none", "adam", (PIXELS,)),
    ("clothes", "none", "cma-es", (GAN, CODES)),
    ("clothes", "noise:0.1", "adam", (GAN, CODES)),
    ("clothes", "none", "gauss-newton", (PIXELS,)),
    ("clothes", "noise:0.1", "cma-es", (GAN, CODES)),
    ("digits", "none", "adam", (GAN, CODES)),
)
"""Images, defense, strategy and priors of the cells."""
RESULTS = Path(__file__).parents[1] / "results"
CELLS, TABLE = RESULTS / "flow.json", RESULTS / "flow.md"


@dataclass(frozen=True)
class Task:
    """One attack: a prior by its key, the clients' images, how it searches, and what they did."""

    prior: str
    data: str
    strategy: str
    defense: str


def tasks() -> list[Task]:
    """Return every attack, in the table's order."""
    return [
        Task(prior, data, strategy, defense)
        for data, defense, strategy, priors in ATTACKS
        for prior in priors
    ]


def sets(digits: Path) -> dict[str, Dataset]:
    """Return the images of each domain: private ones and their decoys, `DECOYS` a class."""
    found = load_dataset(digits, image_shape=SHAPE, fit="pad")
    order = torch.randperm(len(found.labels), generator=stream(SEED, "flow", "digits"))
    rows = torch.cat([order[found.labels[order] == label][:DECOYS] for label in range(found.num_classes)])
    few = Dataset("digits", found.images[rows], found.labels[rows], found.num_classes)
    return {"clothes": load_dataset("fashion-mnist-heldout"), "digits": few}


def attacked(task: Task, prior: Prior, data: Dataset, ceiling: Tensor) -> dict[str, Any]:
    """Return a cell's figures."""
    rows = pick_private(data.labels, IMAGES, SEED)
    started = time.process_time()
    report = ggl.audit(
        ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=SHAPE[-1], seed=SEED),
        data.images[rows],
        data.labels[rows],
        prior=prior,
        defenses=[task.defense],
        strategies=[task.strategy],
        budget=BUDGET,
        ceiling=ceiling,
        decoys=(data.images, data.labels),
        seed=SEED,
    )
    result: Any = report.to_dict()
    (cell,) = result["results"]
    kept = ("psnr", "leak_score", "identification", "verdict")
    return {
        **vars(task),
        **{name: cell[name] for name in kept},
        "psnrs": [image["psnr"] for image in cell["images"]],
        "seconds": round(time.process_time() - started),
    }


def inverted(prior: Prior, data: Dataset) -> Tensor:
    """Return the ceiling of a domain's private images."""
    rows = pick_private(data.labels, IMAGES, SEED)
    found = ggl.invert(data.images[rows], data.labels[rows], prior=prior, budget=BUDGET, seed=SEED)
    return torch.cat([result.images for result in found])


@torch.no_grad()
def judged(priors: Mapping[str, Prior], path: Path) -> dict[str, dict[str, float]]:
    """Return how good each prior's samples are, by one judge."""
    train, test = (load_dataset(path, image_shape=SHAPE, fit="pad", split=name) for name in ("train", "test"))
    with torch.enable_grad():
        judge = train_classifier(Classifier, train.images, train.labels, epochs=JUDGE_EPOCHS, seed=SEED)
    real = [pairwise_distance(test.images[test.labels == label]) for label in range(10)]
    labels = torch.arange(10).repeat_interleave(JUDGED)
    found = {"judge": {"accuracy": accuracy(judge, test.images, test.labels)}}
    for key, prior in priors.items():
        z = prior.sample(len(labels), stream(SEED, "flow", "judged"))
        images = torch.cat(
            [prior.decode(*part) for part in zip(z.split(500), labels.split(500), strict=True)]
        )
        spread = [pairwise_distance(part) for part in images.split(JUDGED)]
        found[key] = {
            "recognized": accuracy(judge, images, labels),
            "spread": float(np.mean(np.divide(spread, real))),
        }
    return found


def ceilings(report: Path, keys: Mapping[str, str]) -> dict[str, Any]:
    """Return what `ggl prior-report` found of each prior, by the prior's key."""
    found = json.loads((report / "priors.json").read_text())
    return {
        key: {
            "latent_dim": found["priors"][name]["latent_dim"],
            "parameters": found["priors"][name]["parameters"],
            "images_per_second": found["timing"][name]["images_per_second"],
            "ceilings": {data: values["priors"][name] for data, values in found["sets"].items()},
        }
        for key, name in keys.items()
    }


def page(found: Mapping[str, Any]) -> str:
    """Return the Markdown page."""
    text = (
        "# Flow-matching priors beside the GAN\n\nMade by `python benchmarks/studies/flow.py`; the settings "
        f"are in that file. {IMAGES} clients, {BUDGET} evaluations; means with 95 % intervals. The judge "
        f"recognizes {found['judged']['judge']['accuracy']:.1%} of the test images."
    )
    return "\n\n".join((text, _samples(found), _ceilings(found), _attacks(found))) + "\n"


def _samples(found: Mapping[str, Any]) -> str:
    headings = (
        "prior",
        "latents",
        "parameters",
        "recognized",
        "spread",
        "images/s",
        "with gradients",
    )
    rows = []
    for key, prior in found["priors"].items():
        judged = found["judged"][key]
        rates = prior["images_per_second"]
        rows.append(
            (
                key,
                str(prior["latent_dim"]),
                f"{prior['parameters']:,}",
                f"{judged['recognized']:.1%}",
                f"{judged['spread']:.2f}",
                *(f"{rate:.0f}" for rate in rates.values()),
            )
        )
    return markdown_table(headings, rows)


def _ceilings(found: Mapping[str, Any]) -> str:
    rows = []
    for data in found["priors"][GAN]["ceilings"]:
        gan = np.array(found["priors"][GAN]["ceilings"][data]["images"])
        for key, prior in found["priors"].items():
            ceiling = prior["ceilings"][data]
            more = bootstrap_mean(np.array(ceiling["images"]) - gan)
            rows.append(
                (
                    *(data, key, figure_text(ceiling["psnr"], ".1f")),
                    "" if key == GAN else figure_text(more, "+.1f"),
                    figure_text(ceiling["gain"], ".1f"),
                )
            )
    return markdown_table(("images", "prior", "ceiling, dB", "less the GAN's", "above its control"), rows)


def _attacks(found: Mapping[str, Any]) -> str:
    values = {_place(cell): np.array(cell["psnrs"]) for cell in found["cells"]}
    rows = []
    for cell in found["cells"]:
        gan = values[_place({**cell, "prior": GAN})]
        rows.append(
            (
                *(cell[name] for name in ("data", "defense", "strategy", "prior")),
                figure_text(cell["psnr"], ".1f"),
                ""
                if cell["prior"] == GAN
                else figure_text(bootstrap_mean(values[_place(cell)] - gan), "+.1f"),
                figure_text(cell["leak_score"]),
                figure_text(cell["identification"]),
                cell["verdict"],
                str(cell["seconds"]),
            )
        )
    headings = (
        *("images", "defense", "strategy", "prior", "PSNR, dB", "less the GAN's"),
        *("leak score", "identified", "verdict", "CPU seconds"),
    )
    return markdown_table(headings, rows)


def _place(cell: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(cell[name] for name in ("prior", "data", "strategy", "defense"))


def main() -> None:
    """Run what is not done, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("codes", "pixels", "data", "digits", "report"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    names = {
        GAN: GAN,
        CODES: f"flow:{options.codes}",
        PIXELS: f"flow:{options.pixels},steps=4",
    }
    priors = {key: ggl.load_prior(name) for key, name in names.items()}
    data, known = sets(options.digits), cache(lambda key, name: inverted(priors[key], data[name]))
    found = json.loads(CELLS.read_text()) if CELLS.exists() else {"cells": []}
    found["priors"] = ceilings(options.report, names)
    if "judged" not in found:
        found["judged"] = judged(priors, options.data)
    save(found)
    for task in tasks()[len(found["cells"]) :]:
        images = data[task.data]
        found["cells"].append(attacked(task, priors[task.prior], images, known(task.prior, task.data)))
        save(found)


def save(found: Mapping[str, Any]) -> None:
    """Write what was found, and the page of it."""
    write_atomically(CELLS, (json.dumps(found, indent=1) + "\n").encode())
    write_atomically(TABLE, page(found).encode())


if __name__ == "__main__":
    main()
