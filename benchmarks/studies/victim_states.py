"""What a victim's state does to the leak: untrained, mid-training, converged; batch normalization's modes.

    python benchmarks/studies/victim_states.py --data PATH/fashion-mnist.npz

Each victim is trained on the training split, padded to the prior's 32 px. Gradient norms, one held-out image
a gradient, and their ratios to those under a wrong label, as `ggl.gradients.convergence` has them, are of
`GRADIENT_IMAGES`; the audit is of `IMAGES` of them by CMA-ES, with every control. All states face the same
images, controls, and ceiling. A table of its own says what single precision does to small gradients. About
four minutes of one core.
"""

import argparse
import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

import ggl
from ggl.base.files import write_atomically
from ggl.benchmarks.studies.single_precision import rounding, section
from ggl.benchmarks.studies.tables import SPACED, interval_text, markdown_table, write_csv
from ggl.costs.federated import accuracy
from ggl.datasets.loading import Dataset, load_dataset
from ggl.datasets.picking import pick_private
from ggl.generators import Prior
from ggl.gradients import GradientOracle
from ggl.gradients.convergence import THRESHOLD, gradient_health
from ggl.victims import LeNet, Victim, load_victim
from ggl.victims.training import train_victim

PRIOR, HELDOUT, SHAPE = "fashion-dcgan32", "fashion-mnist-heldout", (1, 32, 32)
MARKS = {0: "untrained", 300: "mid", 3000: "converged"}
BATCH_SIZE, SEED = 64, 0
RATES = {"lenet": 0.02, "lenet-bn": 0.05}
MODES = {"lenet": ("eval",), "lenet-bn": ("eval", "train")}
DEFENSES = {"lenet": ("none", "noise:0.01"), "lenet-bn": ("none",)}
IMAGES, BUDGET, CEILING_BUDGET, STRATEGY = 8, 500, 500, "cma-es"
GRADIENT_IMAGES, CLASSES = 100, 10
"""`CLASSES` images are drawn, one a class; of fewer, the first classes' are taken."""
RESULTS = Path(__file__).parents[1] / "results"
WIDTH = 12


class NormalizedLeNet(Victim):
    """LeNet's three convolutions, each followed by batch normalization and a ReLU, then its head."""

    def __init__(self, in_channels: int, num_classes: int, image_size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels, stride in ((in_channels, 2), (WIDTH, 2), (WIDTH, 1)):
            convolution = nn.Conv2d(channels, WIDTH, 5, stride=stride, padding=2)
            layers += [convolution, nn.BatchNorm2d(WIDTH), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.fc = nn.Linear(LeNet(in_channels, num_classes, image_size).fc.in_features, num_classes)

    def features(self, x: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n features"]:
        """Return the last activations."""
        features: Tensor = self.body(x)
        return features


def normalized_lenet(*, in_channels: int, num_classes: int, image_size: int) -> NormalizedLeNet:
    """LeNet with batch normalization and ReLU."""
    return NormalizedLeNet(in_channels, num_classes, image_size)


BUILDERS = {"lenet": "lenet", "lenet-bn": "ggl.benchmarks.studies.victim_states:normalized_lenet"}


@dataclass(frozen=True)
class Row:
    """One victim in one state and mode under one defense; intervals are of 95 %."""

    victim: str
    state: str
    step: int
    mode: str
    test_accuracy: float
    norm_smallest: float
    norm_lower_quartile: float
    norm_median: float
    norm_upper_quartile: float
    ratio_median: float
    below_threshold: float
    defense: str
    leak_score: float | None
    leak_low: float | None
    leak_high: float | None
    identified: float
    identified_low: float
    identified_high: float
    psnr: float
    verdict: str


@dataclass
class Setting:
    """What all states share: the prior, the private images, and the ceiling once it is known."""

    prior: Prior
    heldout: Dataset
    test: Dataset
    ceiling: Tensor | None = None

    def rows(self, victim: str, step: int, model: nn.Module) -> Iterator[Row]:
        """Measure a state in the mode that the model has."""
        mode = "train" if model.training else "eval"
        figures = self.gradients(model)
        right = round(accuracy(model, self.test.images, self.test.labels), 4)
        for cell in self.audit(model, DEFENSES[victim]):
            leak, found = cell["leak_score"], cell["identification"]
            yield Row(
                victim=victim,
                state=MARKS[step],
                step=step,
                mode=mode,
                test_accuracy=right,
                defense=cell["defense"],
                leak_score=leak["mean"],
                leak_low=leak["low"],
                leak_high=leak["high"],
                identified=found["mean"],
                identified_low=found["low"],
                identified_high=found["high"],
                psnr=cell["psnr"]["mean"],
                verdict=cell["verdict"],
                **figures,
            )

    def gradients(self, model: nn.Module) -> dict[str, float]:
        """Return the norms' least and quartiles, the ratios' median, and how many are below the threshold."""
        rows = pick_private(self.heldout.labels, GRADIENT_IMAGES, SEED)
        oracle = GradientOracle(model, backend="sequential")
        health = gradient_health(oracle, self.heldout.images[rows], self.heldout.labels[rows])
        least, low, median, high = np.quantile(health.norms, [0, 0.25, 0.5, 0.75]).tolist()
        return {
            "norm_smallest": least,
            "norm_lower_quartile": low,
            "norm_median": median,
            "norm_upper_quartile": high,
            "ratio_median": float(np.median(health.ratios)),
            "below_threshold": float((health.ratios < THRESHOLD).mean()),
        }

    def audit(self, model: nn.Module, defenses: Sequence[str]) -> list[Mapping[str, Any]]:
        """Return an audit's cells; the first one makes the ceiling."""
        rows = pick_private(self.heldout.labels, CLASSES, SEED)[:IMAGES]
        report = ggl.audit(
            model,
            self.heldout.images[rows],
            self.heldout.labels[rows],
            prior=self.prior,
            defenses=defenses,
            strategies=[STRATEGY],
            budget=BUDGET,
            ceiling_budget=CEILING_BUDGET,
            ceiling=self.ceiling,
            seed=SEED,
        )
        self.ceiling = report.ceiling_images
        results: Any = report.to_dict()["results"]
        return list(results)


def states(name: str, training: Dataset) -> Iterator[tuple[int, nn.Module]]:
    """Train a victim; yield it at every mark."""
    model = load_victim(BUILDERS[name], in_channels=1, num_classes=10, image_size=SHAPE[-1], seed=SEED)
    images, labels = training.images, training.labels
    marks, rate = list(MARKS), RATES[name]
    for state in train_victim(
        model, images, labels, marks=marks, learning_rate=rate, batch_size=BATCH_SIZE, seed=SEED
    ):
        trained = copy.deepcopy(model)
        trained.load_state_dict(state.tensors)
        yield state.step, trained


HEADINGS = (
    *("victim", "state", "mode", "accuracy", "norm: smallest", "median", "quartiles", "ratio, median"),
    *("defense", "leak score", "identified", "PSNR", "verdict"),
)


def as_markdown(rows: Sequence[Row], rounded: Sequence[Sequence[str]]) -> str:
    """Return the page."""
    states = ", ".join(f"{step} ({name})" for step, name in MARKS.items())
    settings = (
        f"`python benchmarks/studies/victim_states.py --data fashion-mnist.npz`: {IMAGES} held-out "
        f"Fashion-MNIST images, one a gradient, prior {PRIOR}, {STRATEGY}, {BUDGET} evaluations, "
        f"ceiling by {CEILING_BUDGET}, seed {SEED}. States after {states} steps of {BATCH_SIZE} images. "
        f"Norms, and ratios to those under a wrong label, of {GRADIENT_IMAGES} held-out images. "
        "Leak score and identification with 95 % intervals."
    )
    measured = markdown_table(HEADINGS, map(_cells, rows), SPACED)
    return "\n\n".join(("# The victim's state and the leak", settings, measured, section(rounded)))


def _cells(row: Row) -> Sequence[str]:
    return (
        row.victim,
        f"{row.state} ({row.step})",
        row.mode,
        f"{100 * row.test_accuracy:.1f} %",
        f"{row.norm_smallest:.2g}",
        f"{row.norm_median:.2g}",
        f"{row.norm_lower_quartile:.2g} to {row.norm_upper_quartile:.2g}",
        f"{row.ratio_median:.2g}",
        row.defense,
        interval_text(row.leak_score, row.leak_low, row.leak_high, missing="undefined"),
        interval_text(row.identified, row.identified_low, row.identified_high),
        f"{row.psnr:.1f}",
        row.verdict,
    )


def main() -> None:
    """Read the command line, measure, write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", required=True, help="Fashion-MNIST as .npz, with train_ and test_ arrays")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of victim-states.md and .csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    training, test = (
        load_dataset(arguments.data, split=split, image_shape=SHAPE, fit="pad") for split in ("train", "test")
    )
    setting = Setting(ggl.load_prior(PRIOR), load_dataset(HELDOUT), test)
    rows: list[Row] = []
    rounded: list[Sequence[str]] = []
    for name in BUILDERS:
        for step, model in states(name, training):
            if (name, step) == ("lenet", max(MARKS)):
                rounded = list(rounding(model, setting.heldout, SEED))
            for mode in MODES[name]:
                for row in setting.rows(name, step, model.train(mode == "train")):
                    rows.append(row)
                    print(f"{time.process_time():.0f} s: {' | '.join(_cells(row))}", flush=True)
    write_csv(arguments.out / "victim-states.csv", Row, rows)
    write_atomically(arguments.out / "victim-states.md", as_markdown(rows, rounded).encode())


if __name__ == "__main__":
    main()
