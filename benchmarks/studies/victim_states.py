"""What a victim's state does to the leak: untrained, mid-training, converged; batch normalization's modes.

    python benchmarks/studies/victim_states.py --data PATH/fashion-mnist.npz

Each victim is trained on the training split, padded to the prior's 32 px. Gradient norms, one held-out image
a gradient, and their ratios to those under a wrong label, as `ggl.convergence` has them, are of
`GRADIENT_IMAGES`; the audit is of `IMAGES` of them by CMA-ES, with every control. All states face the same
images, controls, and ceiling. A table of its own says what single precision does to small gradients. About
four minutes of one core.
"""

import argparse
import copy
import csv
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

import ggl
from ggl.base.files import write_atomically
from ggl.base.random import stream
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
GRADIENT_IMAGES = 100
SHARPEN, BINS = (1, 2, 4, 8), tuple(10.0**k for k in range(-9, 1))
ROUNDING_IMAGES, NEAR, OTHERS = 60, 0.02, 6
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
        rows = pick_private(self.heldout.labels, IMAGES, SEED)
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


def rounding(model: nn.Module, data: Dataset) -> Iterator[Sequence[str]]:
    """Yield, by bins of the ratio, what single precision does to cosine distances: medians over images.

    The head's weights are multiplied by `SHARPEN` to reach small ratios.
    """
    rows = pick_private(data.labels, ROUNDING_IMAGES, SEED)
    found = []
    for factor in SHARPEN:
        sharp = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in sharp.get_submodule("fc").parameters():
                parameter.mul_(factor)
        single, double = GradientOracle(sharp), GradientOracle(copy.deepcopy(sharp).double())
        ratios = gradient_health(double, data.images[rows].double(), data.labels[rows]).ratios
        found += [
            (ratio, *_rounding(single, double, data, int(row)))
            for ratio, row in zip(ratios, rows, strict=True)
        ]
    table = np.array(found)
    for low, high in pairwise(BINS):
        inside = table[(table[:, 0] >= low) & (table[:, 0] < high)]
        if len(inside):
            medians = np.nanmedian(inside[:, 1:], axis=0)
            yield (f"{low:.0e} to {high:.0e}", str(len(inside)), *(f"{x:.1e}" for x in medians))


def _rounding(
    single: GradientOracle, double: GradientOracle, data: Dataset, row: int
) -> tuple[float, float, float]:
    """Return three distances from an image's gradient in double precision to what single precision gives.

    That of its own gradient, the relative error of a near candidate's, and that of the nearest of a few
    other images of the class.
    """
    image, label = data.images[row], data.labels[row : row + 1]
    others = (data.labels == label).nonzero()[:, 0]
    noise = torch.randn(image.shape, generator=stream(SEED, "near", row))
    near = (image + NEAR * noise).clamp(0, 1)
    candidates = torch.stack([image, near, *data.images[others[others != row][:OTHERS]]])
    exact = double.gradient(image[None].double(), label)
    rounded = single.gradient(image[None], label)
    target = {name: g.double() for name, g in rounded.items()}
    own = 1 - _cosine(target, exact)
    distances = double.score(candidates.double(), label, exact, "cosine").detach()
    if not any(g.any() for g in rounded.values()):
        return own, np.nan, float(distances[2:].min())
    seen = float(single.score(candidates[1:2], label, rounded, "cosine")[0].detach())
    return own, abs(seen / float(distances[1]) - 1), float(distances[2:].min())


def _cosine(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    first, second = (torch.cat([g[name].flatten() for name in a]) for g in (a, b))
    return float(torch.nn.functional.cosine_similarity(first, second, dim=0))


def as_csv(rows: Sequence[Row]) -> str:
    """Return every figure."""
    text = StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


HEADINGS = (
    *("victim", "state", "mode", "accuracy", "norm: smallest", "median", "quartiles", "ratio, median"),
    *("defense", "leak score", "identified", "PSNR", "verdict"),
)


ROUNDING = ("ratio", "images", "cosine distance, single to double", "error of a near candidate's", "another")


def as_markdown(rows: Sequence[Row], rounded: Sequence[Sequence[str]]) -> str:
    """Return the page."""
    states = ", ".join(f"{step} ({name})" for step, name in MARKS.items())
    settings = (
        f"`python benchmarks/studies/victim_states.py --data fashion-mnist.npz`: {IMAGES} held-out Fashion-MNIST "
        f"images, one a gradient, prior {PRIOR}, {STRATEGY}, {BUDGET} evaluations, ceiling by "
        f"{CEILING_BUDGET}, seed {SEED}. States after {states} steps of {BATCH_SIZE} images. Norms, and "
        f"ratios to those under a wrong label, of {GRADIENT_IMAGES} held-out images. Leak score and "
        "identification with 95 % intervals."
    )
    title, measured = "# The victim's state and the leak", table(HEADINGS, map(_cells, rows))
    return "\n\n".join((title, settings, measured, _rounding_text(rounded)))


def _rounding_text(rounded: Sequence[Sequence[str]]) -> str:
    factors = ", ".join(map(str, SHARPEN))
    settings = (
        f"The last LeNet, its head times {factors}, on {ROUNDING_IMAGES} held-out images: medians of the "
        "cosine distance between an image's gradients in single and in double precision, of the relative "
        f"error of a near candidate's distance (noise of {NEAR} on the image), and of the distance of the "
        f"nearest of {OTHERS} other images of the class."
    )
    return f"## Single precision\n\n{settings}\n\n{table(ROUNDING, rounded)}\n"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: Row) -> Sequence[str]:
    leak = "undefined" if row.leak_score is None else _interval(row.leak_score, row.leak_low, row.leak_high)
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
        leak,
        _interval(row.identified, row.identified_low, row.identified_high),
        f"{row.psnr:.1f}",
        row.verdict,
    )


def _interval(mean: float, low: float | None, high: float | None) -> str:
    return f"{mean:.2f}" if low is None or high is None else f"{mean:.2f} [{low:.2f}, {high:.2f}]"


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
                rounded = list(rounding(model, setting.heldout))
            for mode in MODES[name]:
                for row in setting.rows(name, step, model.train(mode == "train")):
                    rows.append(row)
                    print(f"{time.process_time():.0f} s: {' | '.join(_cells(row))}", flush=True)
    write_atomically(arguments.out / "victim-states.csv", as_csv(rows).encode())
    write_atomically(arguments.out / "victim-states.md", as_markdown(rows, rounded).encode())


if __name__ == "__main__":
    main()
