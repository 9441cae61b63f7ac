"""How far from an image its gradient is linear in the pixels, as the inversion influence function takes it.

    python benchmarks/studies/i2f_linearity.py --data cifar10.npz --out benchmarks/results

Writes i2f-linearity.md and .json: ‖g(x + t u) - g(x)‖² / ‖g(x)‖² for random directions u of root mean square
1, in double precision. Where g is linear it grows with the square of t. A ReLU's derivative jumps where its
input changes sign, and g with it: jumps, one after the other, make it grow with t alone. `resnet18, SiLU` is
the same network and weights with its ReLUs replaced. Then, for gradients shared under some defenses, how the
squared distance to them moves along its own steepest descent from the private image: where it rises at once,
the perfect attacker stays there.
"""

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ggl.base.files import write_atomically
from ggl.base.versions import versions
from ggl.benchmarks.studies.tables import markdown_table
from ggl.datasets.loading import Dataset, load_dataset
from ggl.datasets.picking import pick_private
from ggl.defenses import load_defense
from ggl.gradients import GradientOracle, Gradients
from ggl.i2f.linearity import STEPS as CHECKED
from ggl.i2f.linearity import gradient_growth, random_direction
from ggl.i2f.perturbations import perturbations
from ggl.victims import load_victim

VICTIMS = ("lenet", "mlp", "convnet", "vit", "resnet18", "resnet18, SiLU")
STEPS = (*CHECKED, 1e-1)
NEAR, FAR = 1e-4, 1e-2
"""Steps between which the exponent is taken."""

IMAGES, DIRECTIONS, CLASSES = 5, 2, 10
"""`CLASSES` images are drawn, one a class; of fewer, the first classes' are taken."""

DEFENDED = ("lenet", "resnet18", "resnet18, SiLU")
DEFENSES = ("noise:0.003", "noise:0.03", "prune:0.5", "prune:0.9")


def smoothed(module: nn.Module) -> nn.Module:
    """Replace a module's ReLUs, however deep, by SiLUs."""
    for name, child in module.named_children():
        setattr(module, name, nn.SiLU() if isinstance(child, nn.ReLU) else smoothed(child))
    return module


def victim_of(name: str, data: Dataset) -> nn.Module:
    """Return an untrained victim for the data, in eval mode and double precision."""
    architecture, _, smooth = name.partition(", ")
    channels, _, size = data.images.shape[1:]
    victim = load_victim(architecture, in_channels=channels, num_classes=data.num_classes, image_size=size)
    return (smoothed(victim) if smooth else victim).double()


def measure(name: str, data: Dataset) -> list[list[float]]:
    """Return the growth for every image and direction of one victim."""
    oracle = GradientOracle(victim_of(name, data), backend="sequential")
    found = []
    for k, index in enumerate(pick_private(data.labels, CLASSES, 0)[:IMAGES]):
        image = data.images[index].double()
        for draw in range(DIRECTIONS):
            direction = random_direction(image, k, draw)
            found.append(gradient_growth(oracle, image, data.labels[index], direction, STEPS))
    return found


def descent(name: str, defense: str, data: Dataset) -> list[list[float]]:
    """Return, for every image, the distance to the shared gradient after each step, over that before."""
    model = victim_of(name, data)
    oracle = GradientOracle(model, backend="sequential")
    chosen = pick_private(data.labels, CLASSES, 0)[:IMAGES]
    images, labels = data.images[chosen].double(), data.labels[chosen]
    found = []
    for one in perturbations(model, images, labels, load_defense(defense)):
        label = labels[one.image][None]

        def distance(pixels: Tensor, shared: Gradients = one.shared, label: Tensor = label) -> Tensor:
            return oracle.score(pixels[None], label, shared, "l2")[0]

        image = images[one.image].clone().requires_grad_()
        start = distance(image)
        (slope,) = torch.autograd.grad(start, image)
        down = -slope / slope.square().mean().sqrt()
        with torch.no_grad():
            found.append([float(distance(image + step * down) / start.detach()) for step in STEPS])
    return found


def exponent(distances: list[float]) -> float:
    """Return p where the squared distance grows as the step to the power of p."""
    near, far = distances[STEPS.index(NEAR)], distances[STEPS.index(FAR)]
    return math.log(far / near) / math.log(FAR / NEAR)


def table(result: dict[str, Any]) -> str:
    """Return the result in Markdown."""
    steps = [f"{step:g}" for step in STEPS]
    grown = markdown_table(("victim", *steps, "power"), _growth_rows(result["victims"]))
    settings = (
        f"Made by `python benchmarks/studies/i2f_linearity.py --data {result['data']} --out DIR`: the "
        "gradient's relative squared distance after a step along a random direction, medians over "
        f"{IMAGES} images of {DIRECTIONS} directions each. A step is a root mean square of pixels in [0, 1]. "
        f"The last column is the power of the step with which it grows from {NEAR:g} to {FAR:g}, with the "
        "range: 2 where the gradient is linear."
    )
    descended = markdown_table(("victim", "defense", *steps), _descent_rows(result["descents"]))
    way_down = (
        "The squared distance to a shared gradient after a step along its steepest descent, over that at the "
        f"private image, less 1: the median of {IMAGES} images. Negative is nearer."
    )
    title, heading = "# Where the gradient is linear in the pixels", "## The way down from the private image"
    return "\n\n".join((title, settings, grown, heading, way_down, descended)) + "\n"


def _growth_rows(victims: Mapping[str, list[list[float]]]) -> Iterator[Sequence[str]]:
    for name, found in victims.items():
        powers = [exponent(one) for one in found]
        medians = (f"{median(column):.1e}" for column in zip(*found, strict=True))
        yield name, *medians, f"{median(powers):.2f}, {min(powers):.2f} to {max(powers):.2f}"


def _descent_rows(descents: Mapping[str, Mapping[str, list[list[float]]]]) -> Iterator[Sequence[str]]:
    for name, by_defense in descents.items():
        for defense, ratios in by_defense.items():
            yield name, defense, *(f"{median(column) - 1:+.1e}" for column in zip(*ratios, strict=True))


def main() -> None:
    """Read the command line, measure every victim, write both files and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="fashion-mnist-heldout")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    data = load_dataset(options.data)
    result = {
        "data": Path(options.data).name,
        "versions": versions(),
        "victims": {name: measure(name, data) for name in VICTIMS},
        "descents": {name: {d: descent(name, d, data) for d in DEFENSES} for name in DEFENDED},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / "i2f-linearity.json", json.dumps(result, indent=1).encode())
    text = table(result)
    write_atomically(options.out / "i2f-linearity.md", text.encode())
    print(text, end="")


if __name__ == "__main__":
    main()
