"""Claims of a paper as checks that are fixed before anything runs."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ggl.base.errors import InputError
from ggl.base.registry import unknown_name
from ggl.benchmarks.sweeps.records import SOURCES

__all__ = ["LOSS", "RULES", "SUCCESS", "Check", "check_metrics", "check_values", "metrics_of", "side_of"]

LOSS = "loss"
"""A metric without a source: of the attack's winner, penalty included."""

SUCCESS = "success"
"""A metric: 1 where an image is found with an SSIM of 0.6 or more, else 0."""

RULES = {
    "better": "a is better than b: paired permutation test over images, p < 0.05; else it fails",
    "no_better": (
        "a is no better than b: fails where a is better with p < 0.05; holds where the 95 % interval of a's "
        "lead ends below the tolerance; else undecided"
    ),
    "within": (
        "a is within the tolerance of b: holds where the 95 % interval of a - b lies inside, fails where it "
        "lies outside; else undecided"
    ),
    "no_worse": (
        "a is not behind b by more than the tolerance: holds where the 95 % interval of a's lead lies above "
        "it, fails where it lies below; else undecided"
    ),
    "near": "a is within the tolerance of the reported value, by a's own 95 % interval, as `within`",
    "leaks": "a's leak score is above 0: its interval, and paired p < 0.05 against the strongest control",
    "above": "a is above the value: holds where its 95 % interval lies above it, fails where it lies below",
    "below": "a is below the value, likewise",
    "ranks": (
        "Spearman's ρ of a's and b's figures, point by point, is above the value: its 95 % interval, over "
        "images, lies above; fails where it lies below"
    ),
    "by_class": "a's figures differ among classes: Kruskal-Wallis over images, p < 0.05; else it fails",
}
"""What a check may ask, in words; fewer than six images or three seeds decide nothing."""

TOLERANT = ("no_better", "no_worse", "within", "near")
TWO_SIDED = ("better", "no_better", "no_worse", "within", "ranks")
VALUED = ("near", "above", "below", "ranks")


@dataclass(frozen=True)
class Check:
    """One comparison that a claim stands or falls with.

    Attributes:
        rule: a name of `RULES`.
        a: a group's name, or "group/source" for a control's or the ceiling's figure.
        b: likewise, where the rule compares two.
        metric: of `ggl.benchmarks.sweeps.records.METRICS`, or "loss"; of a measurement's groups one of its
            figures. For the rule `ranks` "A:B", one for each side.
        tolerance: in dB where the metric is, in units of an accuracy or a cosine; of other metrics a share
            of b's mean, or of `value`.
        value: what a rule compares with beside groups.
        trained: groups of trainings whose accuracy must be above `floor`, else nothing is decided: what did
            not train judges nothing.
        floor: that accuracy.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    rule: str
    a: str
    b: str | None = None
    metric: str = "psnr_signed"
    tolerance: float | None = None
    value: float | None = None
    trained: tuple[str, ...] = ()
    floor: float | None = None


def check_values(check: Check, where: str) -> None:
    """Refuse a check whose parts do not fit its rule.

    Raises:
        InputError: a part is missing or superfluous, or a name is unknown.
    """
    if check.rule not in RULES:
        raise unknown_name(f"{where}: rule", check.rule, sorted(RULES))
    for name in (check.a, check.b):
        if name is not None and side_of(name)[1] not in SOURCES:
            raise unknown_name(f"{where}: source", side_of(name)[1], sorted(SOURCES))
    needed = {
        "b": check.rule in TWO_SIDED,
        "tolerance": check.rule in TOLERANT,
        "value": check.rule in VALUED,
    }
    for part, wanted in needed.items():
        if wanted != (getattr(check, part) is not None):
            raise InputError(f"{where}: rule {check.rule!r} takes {'a' if wanted else 'no'} {part!r}")
    if check.tolerance is not None and not 0 < check.tolerance < math.inf:
        raise InputError(f"{where}: expected a tolerance above 0, found {check.tolerance:g}")
    if bool(check.trained) != (check.floor is not None):
        raise InputError(f"{where}: expected 'trained' and 'floor' together, found one of them")


def check_metrics(check: Check, where: str, known: Mapping[str, Collection[str]]) -> None:
    """Refuse a metric that a side does not have; `known` has those of every group.

    Raises:
        UnknownNameError: naming those that are known.
    """
    for side, metric in zip((check.a, check.b), metrics_of(check), strict=True):
        if side is not None and metric not in known[side_of(side)[0]]:
            raise unknown_name(f"{where}: metric", metric, sorted(known[side_of(side)[0]]))
    for group in check.trained:
        if "accuracy" not in known[group]:
            raise InputError(f"{where}: expected groups of trainings in 'trained', found {group!r}")


def metrics_of(check: Check) -> tuple[str, str]:
    """Return the metric of each side."""
    if check.rule != "ranks":
        return check.metric, check.metric
    first, _, second = check.metric.partition(":")
    return first, second


def side_of(name: str) -> tuple[str, str]:
    """Return the group's name and the source of "group/source", or of "group", which is its attack."""
    group, _, source = name.partition("/")
    return group, source or "attack"
