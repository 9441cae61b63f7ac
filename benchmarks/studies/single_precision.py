"""What single precision does to the cosine distances of small gradients."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from ggl.base.random import stream
from ggl.benchmarks.studies.tables import SPACED, markdown_table
from ggl.datasets.loading import Dataset
from ggl.datasets.picking import pick_private
from ggl.gradients import GradientOracle
from ggl.gradients.convergence import gradient_health

__all__ = ["rounding", "section"]

SHARPEN, BINS = (1, 2, 4, 8), tuple(10.0**k for k in range(-9, 1))
IMAGES, NEAR, OTHERS = 60, 0.02, 6
HEADINGS = ("ratio", "images", "cosine distance, single to double", "error of a near candidate's", "another")


def rounding(model: nn.Module, data: Dataset, seed: int) -> Iterator[Sequence[str]]:
    """Yield, by bins of the ratio, what single precision does to cosine distances: medians over images.

    The head's weights are multiplied by `SHARPEN` to reach small ratios.
    """
    rows = pick_private(data.labels, IMAGES, seed)
    found = []
    for factor in SHARPEN:
        sharp = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in sharp.get_submodule("fc").parameters():
                parameter.mul_(factor)
        single, double = GradientOracle(sharp), GradientOracle(copy.deepcopy(sharp).double())
        ratios = gradient_health(double, data.images[rows].double(), data.labels[rows]).ratios
        found += [
            (ratio, *_distances(single, double, data, int(row), seed))
            for ratio, row in zip(ratios, rows, strict=True)
        ]
    table = np.array(found)
    for low, high in pairwise(BINS):
        inside = table[(table[:, 0] >= low) & (table[:, 0] < high)]
        if len(inside):
            medians = np.nanmedian(inside[:, 1:], axis=0)
            yield (f"{low:.0e} to {high:.0e}", str(len(inside)), *(f"{x:.1e}" for x in medians))


def _distances(
    single: GradientOracle, double: GradientOracle, data: Dataset, row: int, seed: int
) -> tuple[float, float, float]:
    """Return three distances from an image's gradient in double precision to what single precision gives.

    That of its own gradient, the relative error of a near candidate's, and that of the nearest of a few
    other images of the class.
    """
    image, label = data.images[row], data.labels[row : row + 1]
    others = (data.labels == label).nonzero()[:, 0]
    noise = torch.randn(image.shape, generator=stream(seed, "near", row))
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


def section(rounded: Sequence[Sequence[str]]) -> str:
    """Return the rows of `rounding` as a section in Markdown."""
    factors = ", ".join(map(str, SHARPEN))
    settings = (
        f"The last LeNet, its head times {factors}, on {IMAGES} held-out images: medians of the "
        "cosine distance between an image's gradients in single and in double precision, of the relative "
        f"error of a near candidate's distance (noise of {NEAR} on the image), and of the distance of the "
        f"nearest of {OTHERS} other images of the class."
    )
    return f"## Single precision\n\n{settings}\n\n{markdown_table(HEADINGS, rounded, SPACED)}\n"
