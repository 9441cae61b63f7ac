"""What figures say of a claim's checks, and what that comes to."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, TypeAlias

import numpy as np
import scipy
from numpy.typing import NDArray

from ggl.audits.verdicts import FEWEST_IMAGES
from ggl.benchmarks.reproduce.claims import Check, metrics_of, side_of
from ggl.benchmarks.reproduce.groups import (
    MEANS,
    Group,
    RowGroup,
    interval_of,
    mean_of,
    over_of,
    points_of,
    same_images,
    values_of,
)
from ggl.benchmarks.reproduce.measurements.base import Over
from ggl.benchmarks.sweeps.aggregate import CellGroup
from ggl.measures.metrics import METRICS
from ggl.measures.rank_correlation import rank_correlation
from ggl.measures.statistics import Interval, paired_test

__all__ = ["DECIBELS", "SHARES", "ClaimOutcome", "ClaimVerdict", "Finding", "judge", "verdict_of"]

ClaimOutcome: TypeAlias = Literal["holds", "fails", "undecided", "not testable"]
ClaimVerdict: TypeAlias = Literal["reproduced", "partly", "not", "undecided", "not testable here"]

Values: TypeAlias = NDArray[np.float64]

SIGNIFICANCE = 0.05

LABEL = "label"
"""The figure that is an image's class."""

DECIBELS = ("psnr", "psnr_signed")

SHARES = ("accuracy", "cosine")
"""Figures whose tolerance is their own difference, as decibels' is; more of them is better."""

FEWEST_SEEDS = 3
"""Trainings: of two, Student's interval is as good as none."""


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


def judge(check: Check, groups: Mapping[str, Group]) -> Finding:
    """Return what the groups' figures say of a check."""
    sides = [side_of(name) for name in (check.a, check.b) if name is not None]
    asked = [*(name for name, _ in sides), *check.trained]
    missing = [name for name in asked if name not in groups or not groups[name].n]
    if missing:
        return Finding("undecided", f"no ok cell of {missing[0]}")
    for name in check.trained:
        trained = fmean((values_of(groups[name], "attack", "accuracy") or {}).values())
        if trained < (check.floor or 0.0):
            why = f"{name} did not train: accuracy {trained:.3g}, expected {check.floor:g} or more"
            return Finding("undecided", why)
    here = [groups[name] for name, _ in sides]
    if check.rule == "leaks":
        return _leaks(here[0])
    if check.rule == "ranks":
        return _ranks(check, here[0], here[1])
    if check.rule == "by_class":
        return _by_class(check, here[0])
    found = [values_of(group, source, check.metric) for group, (_, source) in zip(here, sides, strict=True)]
    if any(values is None for values in found):
        return Finding("not testable", f"{check.metric} is not at hand")
    if not same_images(here):
        return Finding("undecided", "the two sides are of other images")
    known = [values for values in found if values is not None]
    over = over_of(here[0])
    units = sorted(set.intersection(*(set(values) for values in known)))
    if not units:
        return Finding("undecided", f"no {over.removesuffix('s')} in common")
    columns = [np.array([values[i] for i in units]) for values in known]
    return _compare(check, columns[0], None if check.value is not None else columns[1], over)


def _leaks(group: Group) -> Finding:
    leak = group.leak if isinstance(group, CellGroup) else None
    if leak is None or group.n < FEWEST_IMAGES:
        return Finding("undecided", _few(group.n, "images"), n=group.n)
    if math.isnan(leak.interval.low):
        why = "the leak score has no interval: the ceiling is no clear distance from the control"
        return Finding("undecided", why, leak.interval, p_value=leak.p_value, n=group.n)
    outcome: ClaimOutcome = "holds" if leak.leaks else "fails"
    why = f"leak score against {leak.control.replace('_', ' ')}"
    return Finding(outcome, why, leak.interval, p_value=leak.p_value, n=group.n)


def _ranks(check: Check, a: Group, b: Group) -> Finding:
    """Return whether one figure orders points as another does."""
    sides = [
        points_of(group, metric) if isinstance(group, RowGroup) else None
        for group, metric in zip((a, b), metrics_of(check), strict=True)
    ]
    if sides[0] is None or sides[1] is None:
        return Finding("not testable", f"{check.metric} is not at hand")
    (predicted, units), (measured, others) = sides[0], sides[1]
    if units != others:
        return Finding("undecided", "the two sides are not of the same points")
    rho, value = rank_correlation(predicted, measured, units), check.value or 0.0
    outcome: ClaimOutcome = "undecided"
    why = _few(rho.n, "images")
    if rho.n >= FEWEST_IMAGES:
        outcome, why = _beside(rho, value)
    return Finding(outcome, why, rho, n=rho.n)


def _by_class(check: Check, group: Group) -> Finding:
    """Return whether figures differ among classes (Kruskal and Wallis 1952)."""
    values = values_of(group, "attack", check.metric)
    labels = values_of(group, "attack", LABEL)
    if values is None or labels is None:
        return Finding("not testable", f"{check.metric} by class is not at hand")
    classes = [[v for unit, v in values.items() if labels[unit] == label] for label in set(labels.values())]
    n = len(values)
    if n < FEWEST_IMAGES or len(classes) < 2 or min(map(len, classes)) < 2:
        return Finding("undecided", "fewer than two classes, or two images of one", n=n)
    p_value = float(scipy.stats.kruskal(*classes).pvalue)
    outcome: ClaimOutcome = "holds" if p_value < SIGNIFICANCE else "fails"
    means = [fmean(members) for members in classes]
    why = f"means of {len(classes)} classes from {min(means):.3g} to {max(means):.3g}"
    return Finding(outcome, why, mean_of(group, check.metric), p_value=p_value, n=n)


def _beside(figure: Interval, value: float) -> tuple[ClaimOutcome, str]:
    """Return whether an interval lies above a value."""
    if figure.low > value:
        return "holds", "the interval lies on the claimed side of the value"
    if figure.high < value:
        return "fails", "the interval lies on the other side of the value"
    return "undecided", "the interval holds the value"


def _compare(check: Check, a: Values, b: Values | None, over: Over) -> Finding:
    """Return whether a lies where it is said to, beside b or, without one, the check's value."""
    figure, n = interval_of(check.metric, over)(a), len(a)
    if b is None:
        value = check.value or 0.0
        other, p_value, reference = None, None, value
        difference = Interval(figure.mean - value, figure.low - value, figure.high - value, n)
    else:
        other, difference = interval_of(check.metric, over)(b), MEANS[over](a - b)
        reference = other.mean
        p_value = paired_test(a, b) if over in ("images", "clients") else None
    least = {"seeds": FEWEST_SEEDS, "nothing": 1}.get(over, FEWEST_IMAGES)
    outcome: ClaimOutcome = "undecided"
    why = _few(n, over)
    if n >= least:
        outcome, why = _decide(check, difference, p_value, reference)
    return Finding(outcome, why, figure, other, difference, p_value, n)


def _decide(
    check: Check, difference: Interval, p_value: float | None, reference: float
) -> tuple[ClaimOutcome, str]:
    """Return the outcome of a rule that compares, and its reason; without a test the interval is one."""
    if check.rule == "above":
        return _beside(difference, 0.0)
    if check.rule == "below":
        return _beside(Interval(-difference.mean, -difference.high, -difference.low, difference.n), 0.0)
    lead, low, high = _lead(check.metric, difference)
    ahead = low > 0 if p_value is None else lead > 0 and p_value < SIGNIFICANCE
    behind = high < 0 if p_value is None else lead < 0 and p_value < SIGNIFICANCE
    if check.rule == "better":
        if ahead:
            return "holds", "a is better"
        return "fails", "the opposite is seen" if behind else "no difference is shown"
    limit = _limit(check, reference)
    if check.rule == "no_better":
        if ahead:
            return "fails", "a is better"
        holds = high < limit
        return ("holds", "no lead beyond the tolerance") if holds else ("undecided", "a lead is not excluded")
    if check.rule == "no_worse":
        if low > -limit:
            return "holds", "no lag beyond the tolerance"
        lags = high < -limit
        return ("fails", "it lags by more") if lags else ("undecided", "a lag is not excluded")
    if -limit < low and high < limit:
        return "holds", "the interval lies within the tolerance"
    if high < -limit or low > limit:
        return "fails", "the interval lies outside the tolerance"
    return "undecided", "the interval crosses the tolerance"


def _lead(metric: str, difference: Interval) -> tuple[float, float, float]:
    """Return mean, low and high of a - b, turned so that above 0 a is better."""
    if metric not in SHARES and METRICS.get(metric, METRICS["mse"]).lower_is_better:
        return -difference.mean, -difference.high, -difference.low
    return difference.mean, difference.low, difference.high


def _limit(check: Check, reference: float) -> float:
    tolerance = check.tolerance or 0.0
    return tolerance if check.metric in (*DECIBELS, *SHARES) else tolerance * reference


def _few(n: int, over: Over) -> str:
    least = FEWEST_SEEDS if over == "seeds" else FEWEST_IMAGES
    return f"{n} {over}, and fewer than {least} show nothing"


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
