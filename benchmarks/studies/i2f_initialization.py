"""How a victim's initialization decides what the inversion influence function predicts.

    python benchmarks/studies/i2f_initialization.py --out benchmarks/results

Writes i2f-initialization.md and .json. The same LeNet, images and Gaussian noise under four initializations,
several draws of the weights each. Scales differ between them, and with them the gradient: the last column is
the prediction for noise of one hundredth of each gradient's norm, which follows since J δ is linear in δ.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import init

from ggl.base.files import write_atomically
from ggl.base.random import stream
from ggl.base.versions import versions
from ggl.benchmarks.studies.tables import figure_text, markdown_table
from ggl.datasets.loading import load_dataset
from ggl.datasets.picking import pick_private
from ggl.i2f.influence import influence
from ggl.i2f.problem import DAMPING, Influence
from ggl.measures.statistics import bootstrap_mean
from ggl.victims import load_victim

VICTIM, DATA, DEFENSE = "lenet", "fashion-mnist-heldout", "noise:0.01"
IMAGES, SEEDS = 10, 3

STD = 12**-0.5
"""Of the uniform distribution on [-0.5, 0.5]; the normal one has the same."""

RELATIVE = 0.01
"""‖δ‖ / ‖g‖ of the last column."""

SHOWN = ("exact_rmse", "bound_rmse", "lambda_max", "gradient_norm", "relative_rmse")
"""The figures of the table's columns."""

INITIALIZATIONS: Mapping[str, tuple[str, Callable[[nn.Parameter, torch.Generator], object]]] = {
    "uniform": ("U[-0.5, 0.5]", lambda p, g: init.uniform_(p, -0.5, 0.5, generator=g)),
    "normal": ("N(0, 1/12)", lambda p, g: init.normal_(p, 0.0, STD, generator=g)),
    "Kaiming": ("Kaiming normal, gain √2", lambda p, g: init.kaiming_normal_(p, generator=g)),
    "Xavier": ("Xavier normal, gain 1", lambda p, g: init.xavier_normal_(p, generator=g)),
}
"""Biases are drawn alike by the first two and are 0 under the others."""


def initialized(name: str, seed: int) -> nn.Module:
    """Return the victim with weights of an initialization, in eval mode."""
    victim = load_victim(VICTIM, in_channels=1, num_classes=10, image_size=32)
    random, fill = stream(seed, "initialization", name), INITIALIZATIONS[name][1]
    for parameter in victim.parameters():
        if parameter.dim() > 1 or name in ("uniform", "normal"):
            fill(parameter, random)
        else:
            init.zeros_(parameter)
    return victim


def figures(found: Sequence[Influence]) -> dict[str, dict[str, float | int | None]]:
    """Return the figures of one initialization: intervals over images, the weights' draws averaged first."""

    def interval(values: Sequence[np.ndarray]) -> dict[str, float | int | None]:
        return bootstrap_mean(np.mean(values, axis=0)).to_dict()

    exact = [one.rmse[:, 0] for one in found]
    return {
        "exact_rmse": interval(exact),
        "bound_rmse": interval([one.bound_rmse[:, 0] for one in found]),
        "gradient_norm": interval([one.gradient_norm for one in found]),
        "lambda_max": interval([one.lambda_max for one in found]),
        "relative_rmse": interval(
            [
                rmse * RELATIVE * one.gradient_norm / one.delta_norm[:, 0]
                for rmse, one in zip(exact, found, strict=True)
            ]
        ),
        "of_seeds": {f"seed {k}": float(rmse.mean()) for k, rmse in enumerate(exact)},
        "converged": {"points": int(sum(one.converged.sum() for one in found))},
    }


def study(images: int, seeds: int) -> dict[str, Any]:
    """Return every initialization's figures."""
    data = load_dataset(DATA)
    chosen = pick_private(data.labels, images, 0)
    results = {}
    for name in INITIALIZATIONS:
        found = [
            influence(initialized(name, seed), data.images[chosen], data.labels[chosen], DEFENSE)
            for seed in range(seeds)
        ]
        results[name] = figures(found)
    settings = {
        "victim": VICTIM,
        "data": DATA,
        "defense": DEFENSE,
        "images": images,
        "seeds": seeds,
        "damping": DAMPING,
        "relative": RELATIVE,
    }
    return {"settings": settings, "versions": versions(), "results": results}


def page(result: Mapping[str, Any]) -> str:
    """Return the Markdown page."""
    settings = result["settings"]
    told = (
        "Made by `python benchmarks/studies/i2f_initialization.py --out benchmarks/results`. "
        f"{settings['victim']}, {settings['images']} images of {settings['data']}, `{settings['defense']}`, "
        f"the same noise throughout, {settings['seeds']} draws of the weights, "
        f"damping {settings['damping']:g}. Means over images with 95 % bootstrap "
        "intervals, draws of the weights averaged first; in round "
        "brackets the least and the most of these draws' means. A low prediction is a high risk."
    )
    at = f"predicted RMSE at ‖δ‖ = {settings['relative']:g} ‖g‖"
    headings = ("initialization", "predicted RMSE", "lower bound", "λ_max", "gradient norm", at)
    title = "# Initialization and the influence function's prediction"
    return f"{title}\n\n{told}\n\n{markdown_table(headings, _rows(result['results']))}\n"


def _rows(results: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for name, found in results.items():
        seeds = found["of_seeds"].values()
        exact, *others = (figure_text(found[key], ".3g", missing="nan") for key in SHOWN)
        spread = f"{min(seeds):.2g} to {max(seeds):.2g}"
        yield f"{name}: {INITIALIZATIONS[name][0]}", f"{exact} ({spread})", *others


def main() -> None:
    """Run the study, print its table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="folder for i2f-initialization.md and .json")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    asked = parser.parse_args()
    result = study(asked.images, asked.seeds)
    text = page(result)
    print(text)
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        write_atomically(asked.out / "i2f-initialization.md", text.encode())
        content = json.dumps(result, indent=1, allow_nan=False).encode()
        write_atomically(asked.out / "i2f-initialization.json", content)


if __name__ == "__main__":
    main()
