"""Victims trained by the command line: inputs checked first, progress shown, a file of weights a state."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from ggl.base.devices import find_device
from ggl.base.errors import InputError
from ggl.base.files import sha256, write_atomically
from ggl.base.versions import versions
from ggl.base.weights import save_tensors
from ggl.commands.build_victim import check_labels
from ggl.commands.console import LOG_WIDTH, count_bars, summary_table
from ggl.commands.folders import check_folder
from ggl.commands.square_images import load_square
from ggl.costs.federated import accuracy
from ggl.datasets.loading import Dataset
from ggl.datasets.picking import pick_private
from ggl.gradients import GradientOracle
from ggl.gradients.convergence import gradient_health
from ggl.victims import load_victim
from ggl.victims.learning_rates import LEARNING_RATE, LEARNING_RATES
from ggl.victims.training import State, train_victim

__all__ = ["TrainVictimPlan", "run_train_victim"]

RESULT = "training.json"
WEIGHTS = "step-{:06d}.safetensors"
GRADIENT_IMAGES = 100
"""Test images, drawn evenly from the classes, whose gradients are measured; all where there are fewer."""

HEADINGS = ("step", "accuracy", "gradient norm, median", "quartiles", "smallest", "ratio, median", "weights")
LEGEND = """\
accuracy: of test images; gradient norm: of one test image each, in eval mode;
ratio: to the norm under a wrong label, about 1 - p of the right one: near 1 untrained, near 0 converged"""


@dataclass(frozen=True)
class TrainVictimPlan:
    """Everything that `ggl train-victim` was asked for.

    Attributes:
        test_data: a source of the test images beside `data`; None takes the split "test" of `data`.
        marks: steps whose states are kept; 0 is the untrained victim, the last one ends the training.
        learning_rate: None for the victim's own, as of `ggl utility`.
        fit: how images are brought to `image_size` where they are of another.
        image_size: pixels that the victim takes, as the prior of a later audit gives them; None for the
            data's own.
    """

    victim: str
    data: str
    out: Path
    split: str = "train"
    test_data: str | None = None
    marks: tuple[int, ...] = (0, 300, 3000)
    batch_size: int = 64
    learning_rate: float | None = None
    momentum: float = 0.9
    seed: int = 0
    device: str = "auto"
    fit: str | None = None
    image_size: int | None = None
    num_classes: int | None = None

    @property
    def rate(self) -> float:
        """Return the learning rate that is used."""
        own = LEARNING_RATES.get(self.victim, LEARNING_RATE)
        return own if self.learning_rate is None else self.learning_rate


def run_train_victim(plan: TrainVictimPlan) -> None:
    """Train the victim, save its state at every mark and training.json in the plan's folder, print a table.

    The weights are what `ggl audit --victim-weights` takes. Nothing is written before the training has
    ended, and training.json last.

    Raises:
        InputError: anything that does not fit, before the training; the folder holds a training.
        GradientError: the training diverges.
    """
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH, highlight=False)
    _check_place(plan.out)
    device, started = find_device(plan.device), time.monotonic()
    training, test = _load(plan)
    victim = _build(plan, training, test).to(device)
    states, figures = [], []
    with count_bars(console, "steps") as stage:
        for state in train_victim(
            victim,
            training.images,
            training.labels,
            marks=plan.marks,
            learning_rate=plan.rate,
            batch_size=plan.batch_size,
            momentum=plan.momentum,
            seed=plan.seed,
            progress=lambda done: stage(plan.victim, done, max(plan.marks)),
        ):
            states.append(state)
            victim.load_state_dict(state.tensors)
            figures.append(_figures(victim, test, plan.seed))
    settings = _settings(plan, training, test, str(device))
    seconds = round(time.monotonic() - started, 2)
    result = _save(plan.out, states, figures, settings, seconds)
    _print(result, plan, console)


def _check_place(out: Path) -> None:
    check_folder(out)
    there = [out / RESULT, *sorted(out.glob("step-*.safetensors"))]
    for file in there:
        if file.exists():
            raise InputError(f"{out}: holds {file.name} of a training already; choose another folder")


def _load(plan: TrainVictimPlan) -> tuple[Dataset, Dataset]:
    training = load_square(plan.data, plan.split, plan.fit, plan.image_size)
    test = load_square(plan.test_data or plan.data, "test", plan.fit, plan.image_size)
    shapes = [tuple(data.images.shape[1:]) for data in (training, test)]
    if shapes[0] != shapes[1]:
        raise InputError(f"expected test images of the training images' shape {shapes[0]}, found {shapes[1]}")
    if training.images.shape == test.images.shape and training.images.equal(test.images):
        raise InputError(
            f"{plan.data}: the test images are the training images; "
            "give data with the splits train and test, or --test-data"
        )
    return training, test


def _build(plan: TrainVictimPlan, training: Dataset, test: Dataset) -> nn.Module:
    channels, size, _ = training.images.shape[1:]
    classes = _classes(plan, training, test)
    for data in (training, test):
        check_labels(data.name, data.labels, classes)
    return load_victim(
        plan.victim, in_channels=channels, num_classes=classes, image_size=size, seed=plan.seed
    )


def _classes(plan: TrainVictimPlan, training: Dataset, test: Dataset) -> int:
    return plan.num_classes or max(training.num_classes, test.num_classes)


def _figures(victim: nn.Module, test: Dataset, seed: int) -> dict[str, object]:
    """Return a state's test accuracy and what its gradients hold, in eval mode."""
    rows = pick_private(test.labels, min(GRADIENT_IMAGES, len(test.labels)), seed)
    oracle = GradientOracle(victim.eval(), backend="sequential")
    health = gradient_health(oracle, test.images[rows], test.labels[rows])
    return {
        "test_accuracy": accuracy(victim, test.images, test.labels),
        "gradient_norm": _spread(health.norms),
        "gradient_ratio": _spread(health.ratios),
    }


def _spread(values: Float[NDArray[np.float64], " n"]) -> dict[str, float]:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {
        "median": float(middle),
        "lower_quartile": float(low),
        "upper_quartile": float(high),
        "smallest": float(values.min()),
        "largest": float(values.max()),
    }


def _settings(plan: TrainVictimPlan, training: Dataset, test: Dataset, device: str) -> dict[str, object]:
    return {
        "victim": plan.victim,
        "data": plan.data,
        "split": plan.split,
        "test_data": plan.test_data,
        "fit": plan.fit,
        "image_shape": list(training.images.shape[1:]),
        "classes": _classes(plan, training, test),
        "training_images": len(training.images),
        "test_images": len(test.images),
        "gradient_images": min(GRADIENT_IMAGES, len(test.images)),
        "marks": list(plan.marks),
        "batch_size": plan.batch_size,
        "learning_rate": plan.rate,
        "momentum": plan.momentum,
        "seed": plan.seed,
        "device": device,
    }


def _save(
    out: Path,
    states: Sequence[State],
    figures: Sequence[dict[str, object]],
    settings: dict[str, object],
    seconds: float,
) -> dict[str, Any]:
    """Write the weights and, last, training.json: the same for the same seed, `timing` apart."""
    out.mkdir(parents=True, exist_ok=True)
    entries = []
    for state, found in zip(states, figures, strict=True):
        path = out / WEIGHTS.format(state.step)
        save_tensors(path, state.tensors)
        entries.append({"step": state.step, "weights": path.name, "sha256": sha256(path), **found})
    result: dict[str, Any] = {
        "settings": settings,
        "versions": versions(),
        "states": entries,
        "timing": {"seconds": seconds},
    }
    write_atomically(out / RESULT, json.dumps(result, indent=1, allow_nan=False).encode())
    return result


def _print(result: dict[str, Any], plan: TrainVictimPlan, console: Console) -> None:
    title = f"{plan.victim}, {plan.data}, batches of {plan.batch_size}, learning rate {plan.rate:g}"
    console.print(summary_table(title, HEADINGS, [_row(state) for state in result["states"]]))
    console.print(LEGEND)
    console.print(f"weights: {plan.out}; figures: {plan.out / RESULT}", soft_wrap=True)


def _row(state: dict[str, Any]) -> list[str]:
    norm = state["gradient_norm"]
    return [
        str(state["step"]),
        f"{100 * state['test_accuracy']:.1f} %",
        f"{norm['median']:.2g}",
        f"{norm['lower_quartile']:.2g} to {norm['upper_quartile']:.2g}",
        f"{norm['smallest']:.2g}",
        f"{state['gradient_ratio']['median']:.2g}",
        state["weights"],
    ]
