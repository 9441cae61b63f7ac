"""How well the influence function with a prior forecasts what attackers with that prior reach.

    python benchmarks/studies/forecast.py [--minutes 50]
    python benchmarks/studies/forecast_table.py

Written down before it was run. Held-out Fashion-MNIST images, padded to 32 px, one a gradient, label known,
one seed; embedded prior fashion-dcgan32; untrained victims; no defense, levels of Gaussian noise and of
layerwise pruning, five each of LeNet and MLP. Errors are mean squares over all 32 x 32 pixels. Forecast,
ceiling and plain influence function are of `pick_private(labels, 20, 0)`; formulas were chosen on
`pick_private(labels, 10, 101)`, none of which is among them. Ceiling: Adam, 1,000 evaluations. Attackers:
`auto` (gauss-newton), Adam, L-BFGS, adaptive, cosine, the prior's own rule for latents; within a victim and
strategy every cell has equal evaluations.

Cut before it was run, since two cores were shared by seven processes (planned were 1,000 evaluations, 20
images and ten levels of all): evaluations and images as in `TASKS`, levels as in `NOISE`, `PRUNING` and
`FEW`; the exact influence of LeNet alone. Cells run in the order of `TASKS`; none begins after `--minutes`,
and the page says which did not run. What has run is kept in forecast.json, and not run again. After LeNet's
first eight levels and after the MLP's, images, levels and evaluations were cut once more, as the machine was
slower than planned; no cell that is cut had run. As two of LeNet's images were found up to 15 dB off under
strong pruning, the distances of gradients at which searches end were then set beside the ceilings', and
these four cells run again for that, with equal outcome. When the machine was free again ConvNet was run
anew on ten images and eight levels, in place of four and four, and ResNet-18 on eight images and five
levels, in place of two and one.

Read beside the forecast (Σ, the posterior's variance): the maximum a posteriori's own error at this z* (its
bias and variance, ΣAΣ + Σz*z*ᵀΣ), and that of a search which begins at a sample of the prior (Σ + Σ²), each
with the ceiling's error added. Targets, on LeNet: Spearman's rho of at least 0.9 over all levels and 0.7
within one noise level, a median ratio of forecast to measured RMSE from 0.7 to 1.4.
"""

import argparse
import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ggl
from ggl.base.files import write_atomically
from ggl.datasets.loading import load_dataset
from ggl.datasets.picking import pick_private
from ggl.i2f.forecast import CEILING_BUDGET, information
from ggl.i2f.influence import influences
from ggl.i2f.perturbations import perturbations
from ggl.i2f.releases import Release, release_of
from ggl.i2f.surroundings import Surroundings, measure_surroundings

PRIOR, HELDOUT, SIZE, IMAGES, SEED = "fashion-dcgan32", "fashion-mnist-heldout", 32, 20, 0
FIGURES = Path(__file__).parents[1] / "results" / "forecast.json"

NOISE = {
    "lenet": ("0.02", "0.06", "0.2", "0.6", "2"),
    "mlp": ("0.001", "0.004", "0.016", "0.06", "0.25"),
    "convnet": ("0.0005", "0.002", "0.008", "0.03", "0.12"),
    "resnet18": ("0.01", "0.03", "0.1"),
}
PRUNING = {
    "lenet": ("0.5", "0.9", "0.97", "0.99", "0.997"),
    "mlp": ("0.5", "0.9", "0.97", "0.99", "0.997"),
    "convnet": ("0.9", "0.99", "0.997"),
    "resnet18": ("0.9", "0.99"),
}


@dataclass(frozen=True)
class Task:
    """What is predicted of a victim, or how it is attacked; the first `images` of all."""

    victim: str
    what: str
    images: int
    budget: int = 0
    some: tuple[str, ...] = ()

    @property
    def defenses(self) -> list[str]:
        """No defense, and every level, or some of these."""
        if self.some:
            return list(self.some)
        noise, pruning = NOISE[self.victim], PRUNING[self.victim]
        return ["none", *(f"noise:{level}" for level in noise), *(f"prune:{level}" for level in pruning)]

    @property
    def key(self) -> str:
        """Where its figures lie."""
        return f"{self.victim} {self.what}"


FEW = ("none", "noise:0.06", "noise:0.2", "noise:0.6", "prune:0.9", "prune:0.99")

TASKS = (
    Task("lenet", "forecast", 20),
    Task("lenet", "auto", 20, 500),
    Task("mlp", "forecast", 12),
    Task("mlp", "auto", 12, 300),
    Task("convnet", "forecast", 10),
    Task("convnet", "auto", 10, 250),
    Task("lenet", "adam", 6, 300, FEW),
    Task("resnet18", "forecast", 8),
    Task("resnet18", "auto", 8, 200),
    Task("lenet", "exact", 10),
    Task("lenet", "l-bfgs", 6, 300, FEW),
    Task("mlp", "adam", 6, 150),
    Task("mlp", "bound", 12),
    Task("convnet", "bound", 10),
    Task("resnet18", "adam", 6, 150),
)


@dataclass(frozen=True)
class Inputs:
    """What all tasks share."""

    images: Tensor
    labels: Tensor
    prior: Any
    latents: Tensor

    def victim(self, name: str) -> nn.Module:
        """Return a victim, untrained."""
        return ggl.load_victim(name, in_channels=1, num_classes=10, image_size=SIZE, seed=SEED)


def inputs() -> Inputs:
    """Return the images with their own inversions."""
    data, prior = load_dataset(HELDOUT), ggl.load_prior(PRIOR)
    chosen = pick_private(data.labels, IMAGES, SEED)
    images, labels = data.images[chosen], data.labels[chosen]
    found = ggl.invert(images, labels, prior=prior, budget=CEILING_BUDGET, seed=SEED)
    return Inputs(images, labels, prior, torch.cat([one.latents for one in found]))


def run(task: Task, given: Inputs, defense: str) -> dict[str, list[float]]:
    """Return mean squared errors by image: forecast, or measured."""
    victim, n = given.victim(task.victim), task.images
    images, labels = given.images[:n], given.labels[:n]
    oracle, known = ggl.GradientOracle(victim), ggl.load_defense(defense)
    done = list(perturbations(victim, images, labels, known))
    if task.what == "forecast":
        rows = []
        for one, image, label, z in zip(done, images, labels, given.latents, strict=False):
            release = release_of(known, one, 0.0)
            around = measure_surroundings(oracle, given.prior, z, image, label, release.view)
            rows.append(predictions(around, release))
        return {name: [row[name] for row in rows] for name in rows[0]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = ggl.attack_many(
            oracle,
            [ggl.Target(f"{one.image}", one.shared, labels[one.image][None]) for one in done],
            prior=given.prior,
            strategy=task.what,
            defense=defense,
            budget=task.budget,
            seed=SEED,
        )
    errors = [float((r.images[0] - image).square().mean()) for r, image in zip(results, images, strict=True)]
    shown = given.prior.decode(given.latents[:n], labels)
    distances: dict[str, list[float]] = {"distance": [], "ceiling_distance": []}
    for i, (one, result) in enumerate(zip(done, results, strict=True)):
        view = known.view(one.shared, "adaptive", oracle.model)
        both = torch.stack([result.images, shown[i][None]])
        for values, value in zip(
            distances.values(), oracle.score(both, labels[i][None], view, "cosine"), strict=True
        ):
            values.append(float(value))
    return {"measured": errors, **distances}


def without_prior(task: Task, given: Inputs) -> dict[str, dict[str, list[float]]]:
    """Return what the plain influence function and its bound predict, of all defenses at once."""
    victim, n = given.victim(task.victim), task.images
    names, exact = task.defenses, task.what == "exact"
    found = influences(victim, given.images[:n], given.labels[:n], names, exact=exact)
    return {
        name: {"bound": (one.bound_rmse[:, 0] ** 2).tolist()}
        | ({} if one.exact_rmse is None else {"exact": (one.exact_rmse[:, 0] ** 2).tolist()})
        for name, one in zip(names, found, strict=True)
    }


def predictions(around: Surroundings, release: Release) -> dict[str, float]:
    """Return the forecast, the two that are read beside it, and the ceiling, as mean squared errors."""
    values, basis = torch.linalg.eigh(information(around, release))
    values = values.clamp_min(0)
    moved, kept = (basis * (around.spread @ basis)).sum(0), 1 / (1 + values)
    pull, ceiling = basis @ (kept * (basis.T @ around.latent)), around.ceiling
    bias = float(pull @ around.spread @ pull)
    return {
        "posterior": float(moved @ kept) + ceiling,
        "map": float(moved @ (kept * values * kept)) + bias + ceiling,
        "search": float(moved @ (kept + kept * kept)) + ceiling,
        "ceiling": ceiling,
    }


def main() -> None:
    """Run what has not run, as long as there is time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=50.0, help="after which no cell begins")
    end = time.monotonic() + 60 * parser.parse_args().minutes
    found: dict[str, dict[str, Any]] = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    given = inputs()
    for task in TASKS:
        for defense in task.defenses:
            if defense not in found.setdefault(task.key, {}) and time.monotonic() < end:
                began = time.monotonic()
                if task.what in ("exact", "bound"):
                    found[task.key] = without_prior(task, given)
                else:
                    found[task.key][defense] = run(task, given, defense)
                print(f"{task.key}, {defense}: {time.monotonic() - began:.0f} s", flush=True)
                write_atomically(FIGURES, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
