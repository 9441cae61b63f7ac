"""The inversion of images by a prior, beside what costs an attacker nothing.

The inversion of an image bounds what any attack with this prior can show of it. It means something only
beside a random sample, the mean of samples, and the mean image of the class.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ggl.attacks.course import SearchResult, courses
from ggl.attacks.inversion import invert
from ggl.attacks.stages import Stage, progress_of
from ggl.base.random import stream
from ggl.datasets.loading import Dataset
from ggl.generators import Prior
from ggl.gradients.chunks import Chunks
from ggl.measures.leakage import measures, score
from ggl.measures.lpips import load_lpips
from ggl.measures.statistics import bootstrap_mean, paired_test

__all__ = ["DRAWS", "Inversion", "Inverter"]

DRAWS = 16
"""Random samples whose errors, and whose mean image, are the controls of each image."""

CLASS_DRAWS = 8
"""Samples of each class whose mean stands for the class, where images are given the nearest one."""

COMPARED_SIDE = 64
"""Height and width, in pixels, at which images and classes are compared, at most."""

Values = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Inversion:
    """The inversion of some images of a data set, and its controls.

    Attributes:
        data: the specification of the data set; `size` how many images it has.
        rows: (n,) which of them were inverted.
        labels: (n,) their own labels; `classes` those given to the prior, None to an unconditional one.
        rule: "own" or "nearest", how the classes were found; None for an unconditional prior.
        results: the searches.
        values: every metric's values (n,) of the "inversion", and of the controls "random sample" (mean
            over draws), "mean sample" (the draws' mean image) and, where every image has another of its
            class in the set, "class mean".
        mean_samples: (n, c, h, w), the draws' mean images.
    """

    data: str
    size: int
    rows: Int[Tensor, " n"]
    images: Float[Tensor, "n c h w"]
    labels: Int[Tensor, " n"]
    classes: Int[Tensor, " n"] | None
    rule: str | None
    results: Sequence[SearchResult]
    values: Mapping[str, Values]
    mean_samples: Float[Tensor, "n c h w"]
    seconds: float

    @property
    def inverted(self) -> Float[Tensor, "n c h w"]:
        """The prior's best image of each."""
        return torch.cat([result.images for result in self.results])

    def control(self) -> str:
        """Return the strongest control, that of the highest mean PSNR."""
        means = {name: float(v["psnr"].mean()) for name, v in self.values.items() if name != "inversion"}
        return max(means, key=lambda name: means[name])

    def gain(self) -> dict[str, object]:
        """Return by how many dB the inversion is above the strongest control, image by image."""
        control = self.control()
        found, without = self.values["inversion"]["psnr"], self.values[control]["psnr"]
        interval = bootstrap_mean(found - without).to_dict()
        return {**interval, "control": control, "p_value": paired_test(found, without)}

    def curve(self) -> tuple[list[int], list[float]]:
        """Return evaluations and the mean PSNR in dB of the best images so far.

        A search that has stopped counts with its last value.
        """
        evaluations, losses = courses(self.results)
        decibels = -10 * np.log10(np.clip(losses, 1e-10, None)).mean(axis=0)
        finite = np.isfinite(decibels)
        return evaluations[finite].tolist(), decibels[finite].tolist()

    def to_dict(self) -> dict[str, object]:
        """Return every figure."""
        evaluations, decibels = self.curve()
        return {
            "data": self.data,
            "size": self.size,
            "classes": self.rule,
            "figures": {
                name: {metric: bootstrap_mean(v).to_dict() for metric, v in values.items()}
                for name, values in self.values.items()
            },
            "gain": self.gain(),
            "evaluations": max(result.evaluations for result in self.results),
            "backward_passes": max(result.backward_passes for result in self.results),
            "images": [self._image(i) for i in range(len(self.rows))],
            "curve": {"evaluations": evaluations, "psnr": decibels},
        }

    def _image(self, i: int) -> dict[str, object]:
        figures: dict[str, object] = {
            "row": int(self.rows[i]),
            "label": int(self.labels[i]),
            "class": None if self.classes is None else int(self.classes[i]),
            "loss": self.results[i].loss,
        }
        return figures | {metric: float(v[i]) for metric, v in self.values["inversion"].items()}


class Inverter:
    """Inverts images of data sets by one prior and one strategy; arguments as of `prior_report`."""

    def __init__(
        self,
        prior: Prior,
        device: torch.device,
        strategy: str,
        budget: int,
        seed: int,
        checkpoints: Path | None,
        progress: Stage | None,
    ) -> None:
        self.prior, self.device = prior.to(device), device
        self.strategy, self.budget, self.seed = strategy, budget, seed
        self.checkpoints, self.progress = checkpoints, progress
        self.errors = measures(None, load_lpips())
        self._chunks = Chunks(device)
        self._class_means: Tensor | None = None

    @torch.no_grad()
    def decode(self, z: Float[Tensor, "n d"], classes: Tensor | None) -> Float[Tensor, "n c h w"]:
        """Return the images of latents, a chunk at a time."""

        def part(rows: slice) -> Tensor:
            asked = None if classes is None else classes[rows].to(self.device)
            return self.prior.decode(z[rows].to(self.device), asked).cpu()

        return self._chunks.map(len(z), 1, part)

    def inversion(self, name: str, data: Dataset, rows: Tensor, rule: str | None) -> Inversion:
        """Invert the chosen images of a set and score them beside their controls."""
        started = time.monotonic()
        images, labels = data.images[rows], data.labels[rows]
        classes = self.nearest_classes(images) if rule == "nearest" else labels if rule == "own" else None
        asked = labels if classes is None else classes
        results = invert(
            images,
            asked,
            prior=self.prior,
            strategy=self.strategy,
            budget=self.budget,
            seed=self.seed,
            device=self.device,
            checkpoint=None if self.checkpoints is None else self.checkpoints / f"{name}.safetensors",
            progress=progress_of(self.progress, name),
        )
        draws = self.draws(len(images), classes)
        values = {
            "inversion": self.values(torch.cat([r.images for r in results]), images),
            "random sample": self.mean_values(draws, images),
            "mean sample": self.values(draws.mean(0), images),
        }
        means = means_of_others(images, labels, data)
        if means is not None:
            values["class mean"] = self.values(means, images)
        return Inversion(
            data=data.name,
            size=len(data.images),
            rows=rows,
            images=images,
            labels=labels,
            classes=classes,
            rule=rule,
            results=results,
            values=values,
            mean_samples=draws.mean(0),
            seconds=time.monotonic() - started,
        )

    def draws(self, n: int, classes: Tensor | None) -> Float[Tensor, "draws n c h w"]:
        """Return random samples for each of n images, of its class."""
        z = self.prior.sample(DRAWS * n, stream(self.seed, "prior control"))
        images = self.decode(z, None if classes is None else classes.repeat(DRAWS))
        return images.view(DRAWS, n, *images.shape[1:])

    def values(self, found: Tensor, images: Tensor) -> Values:
        """Return every metric at hand, as an audit has them."""
        nothing = images[:0]
        return score(found, images, [nothing] * len(images), self.errors).values

    def mean_values(self, draws: Tensor, images: Tensor) -> Values:
        """Return every metric's mean over draws."""
        scores = [self.values(draw, images) for draw in draws]
        return {name: np.mean([values[name] for values in scores], axis=0) for name in scores[0]}

    def nearest_classes(self, images: Float[Tensor, "n c h w"]) -> Int[Tensor, " n"]:
        """Return the class of which the mean sample is nearest to each image, in squared error.

        Images of more than 64 px are compared reduced to that, so that 1,000 classes' means fit.
        """
        if self._class_means is None:
            z = self.prior.sample(CLASS_DRAWS, stream(self.seed, "prior classes"))
            every = range(self.prior.num_classes or 0)
            samples = (self.decode(z, torch.full((CLASS_DRAWS,), label)) for label in every)
            self._class_means = torch.cat([_reduced(drawn.mean(0, keepdim=True)) for drawn in samples])
        means = self._class_means
        return torch.stack([(means - x).square().flatten(1).sum(1).argmin() for x in _reduced(images)])


def means_of_others(
    images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"], data: Dataset
) -> Float[Tensor, "n c h w"] | None:
    """Return the mean of the other images of each one's class, or None where one has no other."""
    means = []
    for image, label in zip(images, labels, strict=True):
        of_class = data.images[data.labels == label]
        others = of_class[(of_class != image).flatten(1).any(1)]
        if not len(others):
            return None
        means.append(others.mean(0))
    return torch.stack(means)


def _reduced(images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c rows columns"]:
    """Return images whose height and width are at most 64 px, by the mean over areas."""
    size = [min(length, COMPARED_SIDE) for length in images.shape[-2:]]
    return F.interpolate(images, size, mode="area")
