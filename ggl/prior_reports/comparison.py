"""Several priors on the same images: whose ceiling is highest, and what it costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ggl.base.errors import InputError
from ggl.base.versions import versions
from ggl.measures.leakage import MOST_DB
from ggl.measures.metrics import psnr
from ggl.measures.statistics import bootstrap_mean, paired_test
from ggl.prior_reports.findings import PriorReport

__all__ = ["PriorComparison", "check_channels"]

SHARED = ("images", "budget", "strategy", "labels", "seed", "device")
"""Settings that are the same for all priors compared."""

OWN = ("latent_dim", "image_shape", "num_classes", "parameters", "licence", "prior_assumed", "prior_doubts")
"""Settings that are a prior's own."""


@dataclass(frozen=True)
class PriorComparison:
    """Reports on several priors, by the priors' names, of the same images in sets of the same names.

    Where priors differ in size, images and inversions are reduced to the smallest, by the mean over areas,
    before their errors are compared.

    Raises:
        InputError: one report alone, channels that differ, or reports on other images or settings.
    """

    reports: Mapping[str, PriorReport]

    def __post_init__(self) -> None:
        first, *others = self.reports.values()
        if not others:
            raise InputError("expected reports on at least two priors to compare, found one")
        check_channels({name: report.samples.shape[2] for name, report in self.reports.items()})
        for other in others:
            differing = [key for key in SHARED if first.settings[key] != other.settings[key]]
            same = first.sets.keys() == other.sets.keys() and all(
                torch.equal(found.rows, other.sets[name].rows) for name, found in first.sets.items()
            )
            if differing or not same:
                what = f"the settings {', '.join(differing)}" if differing else "the images"
                raise InputError(f"expected reports that differ in their priors alone; {what} differ too")

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels at which images are compared."""
        shapes = [report.samples.shape[-2:] for report in self.reports.values()]
        return min(h for h, _ in shapes), min(w for _, w in shapes)

    def decibels(self, data: str) -> dict[str, NDArray[np.float64]]:
        """Return the PSNR in dB of every prior's inversions (n,) of a set's images, at the common size."""
        found = {name: report.sets[data] for name, report in self.reports.items()}
        return {
            name: psnr(self.reduced(x.inverted), self.reduced(x.images)).clamp(max=MOST_DB).double().numpy()
            for name, x in found.items()
        }

    def reduced(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c rows columns"]:
        """Return images at the common size."""
        return F.interpolate(images, self.size, mode="area")

    def to_dict(self) -> dict[str, object]:
        """Return the content of `priors.json`: the same for the same seed, `timing` apart."""
        first, *_ = self.reports.values()
        return {
            "settings": {key: first.settings[key] for key in SHARED} | {"compared_at": list(self.size)},
            "versions": versions(),
            "priors": {
                name: {key: report.settings[key] for key in OWN} for name, report in self.reports.items()
            },
            "sets": {data: self._set(data) for data in first.sets},
            "timing": {name: report.timing() for name, report in self.reports.items()},
        }

    def _set(self, data: str) -> dict[str, object]:
        decibels = self.decibels(data)
        best = max(decibels, key=lambda name: float(decibels[name].mean()))
        found = {name: report.sets[data] for name, report in self.reports.items()}
        return {
            "data": found[best].data,
            "best": best,
            "priors": {
                name: {
                    "psnr": bootstrap_mean(values).to_dict(),
                    "behind": None if name == best else _difference(decibels[best], values),
                    "gain": found[name].gain(),
                    "classes": found[name].rule,
                    "images": values.tolist(),
                }
                for name, values in decibels.items()
            },
        }


def _difference(best: NDArray[np.float64], other: NDArray[np.float64]) -> dict[str, object]:
    return {**bootstrap_mean(best - other).to_dict(), "p_value": paired_test(best, other)}


def check_channels(channels: Mapping[str, int]) -> None:
    """Raise `InputError` where priors, by name, differ in the channels of their images."""
    if len(set(channels.values())) > 1:
        found = " and ".join(f"{count} of {name}" for name, count in channels.items())
        raise InputError(
            f"expected priors of as many channels, found {found}: compare gray with gray and color with color"
        )
