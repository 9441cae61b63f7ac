"""What is found of a prior: data alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from ggl.base.versions import versions
from ggl.prior_reports.inversion import Inversion

__all__ = ["PriorReport"]


@dataclass(frozen=True)
class PriorReport:
    """A prior's samples, interpolations and inversions.

    Attributes:
        samples: (rows, columns, c, h, w); a row is of one class for a class-conditional prior.
        sample_classes: the rows' classes, None for an unconditional prior.
        interpolation: (paths, steps, c, h, w) between pairs of latents on the sphere.
        path_classes: the paths' classes, None for an unconditional prior.
        sets: the inversions by the name that the caller gave the data set.
        rates: images a second that the prior draws, as of `decoding_rates`.
    """

    settings: Mapping[str, object]
    samples: Float[Tensor, "rows columns c h w"]
    sample_classes: Sequence[int] | None
    interpolation: Float[Tensor, "paths steps c h w"]
    path_classes: Sequence[int] | None
    sets: Mapping[str, Inversion]
    rates: Mapping[str, float]
    seconds: float

    def to_dict(self) -> dict[str, object]:
        """Return the content of `prior.json`: the same for the same seed, `timing` apart."""
        return {
            "settings": dict(self.settings),
            "versions": versions(),
            "samples": {"classes": _listed(self.sample_classes), "columns": self.samples.shape[1]},
            "interpolation": {"classes": _listed(self.path_classes), "steps": self.interpolation.shape[1]},
            "sets": {name: inversion.to_dict() for name, inversion in self.sets.items()},
            "timing": self.timing(),
        }

    def timing(self) -> dict[str, object]:
        """Return what things took, in seconds, and images a second."""
        return {
            "seconds": round(self.seconds, 2),
            "sets": {name: round(inversion.seconds, 2) for name, inversion in self.sets.items()},
            "images_per_second": {name: float(f"{rate:.3g}") for name, rate in self.rates.items()},
        }


def _listed(classes: Sequence[int] | None) -> list[int] | None:
    return None if classes is None else list(classes)
