"""How well the influence function with a prior forecasts what attackers with that prior reach.

    python benchmarks/studies/forecast.py [--minutes 50]

Written down before it was run. Held-out Fashion-MNIST images, padded to 32 px, one a gradient, label known,
one seed; embedded prior fashion-dcgan32; untrained victims; no defense, five levels of Gaussian noise and
five of layerwise pruning. Errors are mean squares over all 32 x 32 pixels. Forecast, ceiling and plain
influence function are of `pick_private(labels, 20, 0)`; formulas were chosen on `pick_private(labels, 10,
101)`, none of which is among them. Ceiling: Adam, 1,000 evaluations. Attackers: `auto` (gauss-newton), Adam,
L-BFGS, adaptive, cosine, the prior's own rule for latents; within a victim and strategy every cell has equal
evaluations.

Cut before it was run, since two cores were shared by seven processes (planned were 1,000 evaluations and
20 images of all): evaluations and images as in `TASKS`; of ConvNet three pruning levels, of ResNet-18 no
defense, two noise levels and one pruning level; the exact influence of LeNet alone. Cells run in the
order of `TASKS`; none begins after `--minutes`, and the page says which did not run. What has run is kept in
forecast.json, and not run again. After LeNet's first eight levels images and evaluations were cut once more,
to what `TASKS` has, as the machine was slower than planned; no cell that is cut had run. As two of
LeNet's images were found up to 15 dB off under strong pruning, the losses at which searches end were then set
beside those of the ceilings' latents, and these four cells run again for that, with equal outcome.

Read beside the forecast (Σ, the posterior's variance): the maximum a posteriori's own error at this z* (its
bias and variance, ΣAΣ + Σz*z*ᵀΣ), and that of a search which begins at a sample of the prior (Σ + Σ²), each
with the ceiling's error added. Targets, on LeNet: Spearman's rho of at least 0.9 over all levels and 0.7
within one noise level, a median ratio of forecast to measured RMSE from 0.7 to 1.4.
"""

import argparse
import json
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import ggl
from ggl.attacks.latents import load_latents
from ggl.base.files import write_atomically
from ggl.base.random import numpy_stream
from ggl.benchmarks.studies.tables import figure_text, markdown_table
from ggl.datasets.loading import load_dataset
from ggl.datasets.picking import pick_private
from ggl.i2f.forecast import CEILING_BUDGET, information
from ggl.i2f.influence import influences
from ggl.i2f.perturbations import perturbations
from ggl.i2f.releases import Release, release_of
from ggl.i2f.surroundings import Surroundings, measure_surroundings
from ggl.measures.rank_correlation import rank_correlation
from ggl.measures.statistics import Interval, share_of_clusters

PRIOR, HELDOUT, SIZE, IMAGES, SEED = "fashion-dcgan32", "fashion-mnist-heldout", 32, 20, 0
RESULTS = Path(__file__).parents[1] / "results"

NOISE = {
    "lenet": ("0.02", "0.06", "0.2", "0.6", "2"),
    "mlp": ("0.001", "0.004", "0.016", "0.06", "0.25"),
    "convnet": ("0.0005", "0.002", "0.008", "0.03", "0.12"),
    "resnet18": ("0.002", "0.03"),
}
PRUNING = {
    "lenet": ("0.5", "0.9", "0.97", "0.99", "0.997"),
    "mlp": ("0.5", "0.9", "0.97", "0.99", "0.997"),
    "convnet": ("0.9", "0.99", "0.997"),
    "resnet18": ("0.9",),
}

NAMES = {
    "posterior": "forecast",
    "map": "bias and variance at z*",
    "search": "Σ + Σ²",
    "exact": "exact influence, no prior",
    "bound": "published bound, no prior",
}
"""Of predictions of a mean squared error."""

WITHIN = 3.0
"""dB."""

RESAMPLES = 2000

Points: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]
"""Predicted and measured mean squared errors and the numbers of their images."""


@dataclass(frozen=True)
class Task:
    """What is predicted of a victim, or how it is attacked; the first `images` of all."""

    victim: str
    what: str
    images: int
    budget: int = 0

    @property
    def defenses(self) -> list[str]:
        """No defense, and every level."""
        noise, pruning = NOISE[self.victim], PRUNING[self.victim]
        return ["none", *(f"noise:{level}" for level in noise), *(f"prune:{level}" for level in pruning)]

    @property
    def key(self) -> str:
        """Where its figures lie."""
        return f"{self.victim} {self.what}"


TASKS = (
    Task("lenet", "forecast", 20),
    Task("lenet", "auto", 20, 500),
    Task("mlp", "forecast", 12),
    Task("mlp", "auto", 12, 300),
    Task("lenet", "adam", 10, 300),
    Task("lenet", "exact", 20),
    Task("convnet", "forecast", 5),
    Task("convnet", "auto", 5, 250),
    Task("mlp", "bound", 12),
    Task("convnet", "bound", 5),
    Task("resnet18", "forecast", 3),
    Task("resnet18", "auto", 3, 200),
    Task("lenet", "lbfgs", 6, 200),
    Task("mlp", "adam", 6, 150),
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
    rule, rivals = load_latents(given.prior.latents), given.latents[:n]
    at_ceiling = rule.penalty(given.prior, rivals).tolist()
    shown = given.prior.decode(rivals, labels)
    for i, one in enumerate(done):
        view = known.view(one.shared, "adaptive", oracle.model)
        at_ceiling[i] += float(oracle.score(shown[i][None, None], labels[i][None], view, "cosine"))
    return {"measured": errors, "loss": [r.loss for r in results], "loss_at_ceiling": at_ceiling}


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
    pixels, z, kept = basis.T @ around.pixels, basis.T @ around.latent, 1 / (1 + values)
    moved, ceiling = pixels.square().mean(1), around.ceiling
    bias = float(((kept * z) @ pixels).square().mean())
    return {
        "posterior": float(moved @ kept) + ceiling,
        "map": float(moved @ (kept * values * kept)) + bias + ceiling,
        "search": float(moved @ (kept + kept * kept)) + ceiling,
        "ceiling": ceiling,
    }


def pairs(
    found: Mapping[str, Any], victim: str, strategy: str, key: str, defenses: Sequence[str]
) -> Points | None:
    """Return predicted and measured mean squared errors and image numbers, (m,) each, None without any."""
    rows = []
    for defense in defenses:
        measured = found.get(f"{victim} {strategy}", {}).get(defense, {}).get("measured", [])
        sources = [
            found.get(f"{victim} {what}", {}).get(defense, {}) for what in ("forecast", "exact", "bound")
        ]
        predicted: list[float] = next((source[key] for source in sources if key in source), [])
        rows += [(p, m, i) for i, (p, m) in enumerate(zip(predicted, measured, strict=False))]
    if not rows:
        return None
    a, b, i = (np.array(column) for column in zip(*rows, strict=True))
    return a, b, i


def stuck(cell: Mapping[str, Sequence[float]], images: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which searches ended above the loss that the ceiling's own latent has; none where unknown."""
    if "loss" not in cell:
        return np.zeros(len(images), dtype=np.bool_)
    found: NDArray[np.bool_] = np.greater(cell["loss"], cell["loss_at_ceiling"])[images]
    return found


def calibration(
    a: NDArray[np.float64], b: NDArray[np.float64], images: NDArray[np.int64]
) -> tuple[Interval, Interval]:
    """Return the median ratio of predicted to measured RMSE, and the share within 3 dB, over images."""
    ratio, n = np.sqrt(a / b), int(images.max()) + 1
    inside = np.abs(20 * np.log10(ratio)) < WITHIN
    random, drawn = numpy_stream(SEED, "forecast ratio"), []
    by_image = [ratio[images == i] for i in range(n)]
    for _ in range(RESAMPLES):
        drawn.append(np.median(np.concatenate([by_image[i] for i in random.integers(0, n, n)])))
    low, high = np.quantile(drawn, [0.025, 0.975])
    shares = [float(inside[images == i].mean()) for i in range(n)]
    return Interval(float(np.median(ratio)), float(low), float(high), n), share_of_clusters(shares)


def attacked(found: Mapping[str, Any]) -> Iterator[Task]:
    """Yield the attacks of which a cell has run."""
    for task in TASKS:
        if task.budget and found.get(task.key):
            yield task


def page(found: Mapping[str, Any]) -> str:
    """Return the tables."""
    over, within = [], []
    for task in attacked(found):
        names = [d for d in task.defenses if d in found[task.key]]
        for key, name in NAMES.items():
            points = pairs(found, task.victim, task.what, key, names)
            if points is None:
                continue
            a, b, i = points
            ratio, share = calibration(a, b, i)
            rho = rank_correlation(a, b, i)
            evaluations = f"{task.what}, {task.budget}"
            figures = [figure_text(rho), figure_text(ratio), figure_text(share)]
            over.append([task.victim, evaluations, name, *figures, str(len(a)), str(rho.n)])
        for defense in names:
            columns = {
                key: pairs(found, task.victim, task.what, key, [defense])
                for key in ("posterior", "exact", "bound", "ceiling")
            }
            known, ceiling = columns["posterior"], columns.pop("ceiling")
            if known is not None and ceiling is not None:
                rhos = ["" if p is None else figure_text(rank_correlation(*p)) for p in columns.values()]
                medians = [f"{np.median(np.sqrt(x)):.3f}" for x in (ceiling[0], known[0], known[1])]
                evaluations = f"{task.what}, {task.budget}"
                bad = stuck(found[task.key][defense], known[2])
                others = rank_correlation(known[0][~bad], known[1][~bad], known[2][~bad])
                within.append(
                    [task.victim, evaluations, defense, *rhos, figure_text(calibration(*known)[0]), *medians]
                    + (
                        [str(int(bad.sum())), figure_text(others)]
                        if "loss" in found[task.key][defense]
                        else ["", ""]
                    )
                )
    missing = {
        f"{task.victim}, {task.what}": [d for d in task.defenses if d not in found.get(task.key, {})]
        for task in TASKS
    }
    out_of_time = "; ".join(f"{name}: {', '.join(which)}" for name, which in missing.items() if which)
    parts = [
        "# The influence function with a prior, and what attackers reach\n",
        "Made by `python benchmarks/studies/forecast.py`, whose docstring holds the settings. Spearman's "
        "rho of predicted and measured errors, 95 % intervals over images; the ratio of predicted to "
        "measured RMSE; the share of points within 3 dB, by Wilson's interval over images.\n",
        "## Over all levels\n",
        markdown_table(
            [
                "victim",
                "attacker, evaluations",
                "prediction",
                "rho",
                "median ratio",
                "within 3 dB",
                "points",
                "images",
            ],
            over,
        ),
        "\n## Within one level\n",
        "Ratios are the forecast's; RMSE are medians over images. Stuck: searches that ended above the loss "
        "that the ceiling's own latent has, so that what is measured is the search and not the gradient; "
        "they were looked for in the cells that have a number there.\n",
        markdown_table(
            [
                "victim",
                "attacker, evaluations",
                "defense",
                "rho, forecast",
                "rho, exact influence",
                "rho, bound",
                "median ratio",
                "RMSE of the ceiling",
                "RMSE forecast",
                "RMSE measured",
                "stuck",
                "rho, forecast, of the others",
            ],
            within,
        ),
        "\n## Did not run\n",
        f"Out of time: {out_of_time}." if out_of_time else "Everything ran.",
    ]
    return "\n".join(parts) + "\n"


def main() -> None:
    """Run what has not run, as long as there is time, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=50.0, help="after which no cell begins")
    end, path = time.monotonic() + 60 * parser.parse_args().minutes, RESULTS / "forecast.json"
    found: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
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
                write_atomically(path, (json.dumps(found, indent=1) + "\n").encode())
    write_atomically(RESULTS / "forecast.md", page(found).encode())


if __name__ == "__main__":
    main()
