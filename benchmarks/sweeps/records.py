"""A record: what became of a cell, in numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from ggl.benchmarks.sweeps.cells import SweepCell

__all__ = [
    "CIRCUMSTANCES",
    "FIGURES",
    "METRICS",
    "SOURCES",
    "CurvePoint",
    "Record",
    "Status",
    "figure_name",
]

Status: TypeAlias = Literal["ok", "failed", "skipped"]

SOURCES = ("attack", "sibling", "noise", "prior", "class_mean", "ceiling")
"""Whose picture is compared with the private image: the attack's, four controls', the prior's best."""

METRICS = ("mse", "psnr", "psnr_signed", "ssim", "ssim_error", "lpips", "feature_distance", "rank")
"""By what; `lpips` and `feature_distance` only where their weights and the victim allow it."""


def figure_name(source: str, metric: str) -> str:
    """Return the name of a figure: "attack_mse"."""
    return f"{source}_{metric}"


CIRCUMSTANCES = ("packed", "seconds", "peak_memory")
"""Figures that may differ from run to run: how many cells ran side by side, how long, in how much memory."""

WHOLE = (
    *(figure_name(source, "rank") for source in SOURCES),
    *("label", "decoys", "label_recovered", "evaluations", "backward_passes", "passes_per_evaluation"),
    *("packed", "peak_memory"),
)

FIGURES: dict[str, type[int] | type[float]] = {
    name: int if name in WHOLE else float
    for name in (
        *(figure_name(source, metric) for source in SOURCES for metric in METRICS),
        *("label", "decoys", "label_recovered", "loss", "match_of_attack", "match_of_private"),
        *("evaluations", "backward_passes", "passes_per_evaluation", *CIRCUMSTANCES),
    )
}
"""Every figure of a cell, and its kind.

- `attack_mse` and so on: of a source's picture against the private image; ranks begin with 1.
- `label`: the private image's class; `label_recovered`: 1 where iDLG reads it off the shared gradient.
- `decoys`: how many others the private image is ranked among.
- `loss`: of the attack's winner, penalty included; `match_of_attack` without it, and `match_of_private`
  the same distance of the private image's own gradient.
- `evaluations`, `backward_passes`: of the attack's search; `passes_per_evaluation`: through the victim.
- `packed`: how many cells ran side by side; `seconds`: the pack's time, controls included, over that
  number; `peak_memory`: the pack's, in bytes, of the process or, on a GPU, of its allocator.
"""


class CurvePoint(NamedTuple):
    """What an attack had found on its way: evaluations, seconds of its search, loss, squared error."""

    evaluations: int
    seconds: float
    loss: float
    mse: float


@dataclass(frozen=True)
class Record:
    """What became of a cell.

    Attributes:
        reason: why it failed or was skipped; empty where it is ok.
        figures: by the names of `FIGURES`, of an ok cell; None where a figure is undefined or not at hand.
        curve: at halvings of the budget, of an ok cell.
        private_image: a hash of the private image's pixels; `sibling_image` of its sibling's.
        spec: hash of the spec it was run for; `commit` of the code, if known; `versions` of packages, as
            JSON; `finished` in UTC.
    """

    cell: SweepCell
    status: Status
    reason: str = ""
    figures: Mapping[str, float | int | None] = field(default_factory=dict)
    curve: tuple[CurvePoint, ...] = ()
    private_image: str = ""
    sibling_image: str = ""
    spec: str = ""
    device: str = ""
    commit: str = ""
    versions: str = ""
    finished: str = ""

    def figure(self, source: str, metric: str) -> float | int | None:
        """Return a source's figure by a metric, or None."""
        return self.figures.get(figure_name(source, metric))

    def measured(self) -> tuple[object, ...]:
        """Return what two runs of the cell must agree on: all but circumstances, places and versions."""
        figures = {name: value for name, value in self.figures.items() if name not in CIRCUMSTANCES}
        curve = [(point.evaluations, point.loss, point.mse) for point in self.curve]
        return self.cell, self.status, self.reason, figures, curve, self.private_image, self.sibling_image
