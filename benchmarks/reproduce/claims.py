"""Claims of a paper as checks that are fixed before anything runs, and what figures say of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ggl.audits.verdicts import FEWEST_IMAGES
from ggl.base.errors import InputError
from ggl.base.registry import unknown_name
from ggl.benchmarks.sweeps.aggregate import CellGroup
from ggl.benchmarks.sweeps.records import METRICS as RECORDED
from ggl.benchmarks.sweeps.records import SOURCES
from ggl.measures.metrics import METRICS
from ggl.measures.statistics import Interval, bootstrap_mean, paired_test

__all__ = [
    "RULES",
    "Check",
    "ClaimOutcome",
    "ClaimVerdict",
    "Finding",
    "check_values",
    "judge",
    "side_of",
    "values_of",
    "verdict_of",
]

ClaimOutcome: TypeAlias = Literal["holds", "fails", "undecided", "not testable"]
ClaimVerdict: TypeAlias = Literal["reproduced", "partly", "not", "undecided", "not testable here"]

Values: TypeAlias = NDArray[np.float64]

SIGNIFICANCE = 0.05
LOSS = "loss"
"""A metric without a source: of the attack's winner, penalty included."""

DECIBELS = ("psnr", "psnr_signed")

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
    "near": "a is within the tolerance of the reported value, by a's own 95 % interval, as `within`",
    "leaks": "a's leak score is above 0: its interval, and paired p < 0.05 against the strongest control",
}
"""What a check may ask, in words; fewer than six images decide nothing."""

TOLERANT = ("no_better", "within", "near")


@dataclass(frozen=True)
class Check:
    """One comparison that a claim stands or falls with.

    Attributes:
        rule: a name of `RULES`.
        a: a group's name, or "group/source" for a control's or the ceiling's figure.
        b: likewise, where the rule compares two.
        metric: of `ggl.benchmarks.sweeps.records.METRICS`, or "loss".
        tolerance: in dB where the metric is; of other metrics a share of b's mean, or of `value`.
        value: the reported one, for the rule `near`.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    rule: str
    a: str
    b: str | None = None
    metric: str = "psnr_signed"
    tolerance: float | None = None
    value: float | None = None


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        a: the first side's figure; for the rule `leaks` the leak score.
        difference: a - b, or a - the reported value, over the images that both sides have.
        n: how many these are.
    """

    outcome: ClaimOutcome
    why: str
    a: Interval | None = None
    b: Interval | None = None
    difference: Interval | None = None
    p_value: float | None = None
    n: int = 0


def check_values(check: Check, where: str) -> None:
    """Refuse a check whose parts do not fit its rule.

    Raises:
        InputError: a part is missing or superfluous, or a name is unknown.
    """
    if check.rule not in RULES:
        raise unknown_name(f"{where}: rule", check.rule, sorted(RULES))
    if check.metric not in (*RECORDED, LOSS):
        raise unknown_name(f"{where}: metric", check.metric, sorted((*RECORDED, LOSS)))
    for name in (check.a, check.b):
        if name is not None and side_of(name)[1] not in SOURCES:
            raise unknown_name(f"{where}: source", side_of(name)[1], sorted(SOURCES))
    needed = {
        "b": check.rule in ("better", "no_better", "within"),
        "tolerance": check.rule in TOLERANT,
        "value": check.rule == "near",
    }
    for part, wanted in needed.items():
        if wanted != (getattr(check, part) is not None):
            raise InputError(f"{where}: rule {check.rule!r} takes {'a' if wanted else 'no'} {part!r}")
    if check.tolerance is not None and not 0 < check.tolerance < math.inf:
        raise InputError(f"{where}: expected a tolerance above 0, found {check.tolerance:g}")


def side_of(name: str) -> tuple[str, str]:
    """Return the group's name and the source of "group/source", or of "group", which is its attack."""
    group, _, source = name.partition("/")
    return group, source or "attack"


def values_of(group: CellGroup, source: str, metric: str) -> dict[int, float] | None:
    """Return a figure by image, the mean over seeds; None where it is not at hand for every ok cell."""
    found: dict[int, float] = {}
    for image, records in group.by_image.items():
        figures = [r.figures.get(LOSS) if metric == LOSS else r.figure(source, metric) for r in records]
        known = [figure for figure in figures if figure is not None]
        if len(known) < len(figures):
            return None
        found[image] = fmean(known)
    return found


def judge(check: Check, groups: Mapping[str, CellGroup]) -> Finding:
    """Return what the groups' figures say of a check."""
    sides = [side_of(name) for name in (check.a, check.b) if name is not None]
    missing = [name for name, _ in sides if name not in groups or not groups[name].n]
    if missing:
        return Finding("undecided", f"no ok cell of {missing[0]}")
    if check.rule == "leaks":
        return _leaks(groups[sides[0][0]])
    found = [values_of(groups[name], source, check.metric) for name, source in sides]
    if any(values is None for values in found):
        return Finding("not testable", f"{check.metric} is not at hand")
    known = [values for values in found if values is not None]
    images = sorted(set.intersection(*(set(values) for values in known)))
    columns = [np.array([values[i] for i in images]) for values in known]
    if check.value is not None:
        columns.append(np.full(len(images), check.value))
    return _compare(check, columns[0], columns[1]) if images else Finding("undecided", "no image in common")


def _leaks(group: CellGroup) -> Finding:
    leak = group.leak
    if leak is None or group.n < FEWEST_IMAGES:
        return Finding("undecided", _few(group.n), n=group.n)
    if math.isnan(leak.interval.low):
        why = "the leak score has no interval: the ceiling is no clear distance from the control"
        return Finding("undecided", why, leak.interval, p_value=leak.p_value, n=group.n)
    outcome: ClaimOutcome = "holds" if leak.leaks else "fails"
    why = f"leak score against {leak.control.replace('_', ' ')}"
    return Finding(outcome, why, leak.interval, p_value=leak.p_value, n=group.n)


def _compare(check: Check, a: Values, b: Values) -> Finding:
    difference, p_value, n = bootstrap_mean(a - b), paired_test(a, b), len(a)
    outcome: ClaimOutcome = "undecided"
    why = _few(n)
    if n >= FEWEST_IMAGES:
        outcome, why = _decide(check, difference, p_value, b)
    reported = check.value is not None
    other = None if reported else bootstrap_mean(b)
    return Finding(outcome, why, bootstrap_mean(a), other, difference, None if reported else p_value, n)


def _decide(check: Check, difference: Interval, p_value: float, b: Values) -> tuple[ClaimOutcome, str]:
    """Return the outcome of a rule that compares, and its reason."""
    lead, low, high = _lead(check.metric, difference)
    ahead, behind = lead > 0 and p_value < SIGNIFICANCE, lead < 0 and p_value < SIGNIFICANCE
    if check.rule == "better":
        if ahead:
            return "holds", "a is better"
        return "fails", "the opposite is seen" if behind else "no difference is shown"
    limit = _limit(check, b)
    if check.rule == "no_better":
        if ahead:
            return "fails", "a is better"
        holds = high < limit
        return ("holds", "no lead beyond the tolerance") if holds else ("undecided", "a lead is not excluded")
    if -limit < low and high < limit:
        return "holds", "the interval lies within the tolerance"
    if high < -limit or low > limit:
        return "fails", "the interval lies outside the tolerance"
    return "undecided", "the interval crosses the tolerance"


def _lead(metric: str, difference: Interval) -> tuple[float, float, float]:
    """Return mean, low and high of a - b, turned so that above 0 a is better."""
    if metric == LOSS or METRICS.get(metric, METRICS["mse"]).lower_is_better:
        return -difference.mean, -difference.high, -difference.low
    return difference.mean, difference.low, difference.high


def _limit(check: Check, b: Values) -> float:
    tolerance = check.tolerance or 0.0
    return tolerance if check.metric in DECIBELS else tolerance * float(np.mean(b))


def _few(n: int) -> str:
    return f"{n} images, and fewer than {FEWEST_IMAGES} show nothing"


def verdict_of(findings: Sequence[Finding]) -> ClaimVerdict:
    """Return what a claim's checks come to.

    What is not testable is left out, unless nothing else is there; one undecided check leaves the claim
    undecided; then all, some or none of them hold.
    """
    outcomes = [finding.outcome for finding in findings if finding.outcome != "not testable"]
    if not outcomes:
        return "not testable here"
    if "undecided" in outcomes:
        return "undecided"
    holding = outcomes.count("holds")
    return "reproduced" if holding == len(outcomes) else "partly" if holding else "not"
