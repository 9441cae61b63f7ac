"""Doubts from errors: an attack beside its ceiling, its noise control, random search, who knows less.

A lower error is a lower mean over images and, from `FEWEST_IMAGES` on, p < 0.05 of the paired test: one test
a flag, uncorrected.
"""

from collections.abc import Mapping
from statistics import fmean
from typing import TypeAlias

from ggl.audits.attackers import ANALYTIC
from ggl.audits.verdicts import FEWEST_IMAGES
from ggl.benchmarks.checks.flag import Flag, Severity
from ggl.benchmarks.sweeps.aggregate import CellGroup
from ggl.measures.leakage import HEADLINE, SIGNIFICANCE, identifies
from ggl.measures.statistics import paired_test

__all__ = [
    *("Errors", "adaptive_worse", "ceiling_below_attack", "is_lower", "mean_of", "noise_ties", "p_value"),
    "random_ties",
]

Errors: TypeAlias = Mapping[int, float]
"""Mean squared errors by image."""

SEARCHED: tuple[Severity, str] = ("doubt", "the ceiling was searched too little")
CLOSED_FORM: tuple[Severity, str] = ("note", "the closed form is not bound to the prior")

SEARCHLESS: tuple[Severity, str] = ("doubt", "the search finds no more than independent draws do")
UNDECIDED: tuple[Severity, str] = ("note", "more images would tell")
EMPTY: tuple[Severity, str] = (
    "note",
    "nor is it below the noise control's, and there may be nothing to find",
)


def ceiling_below_attack(group: CellGroup) -> Flag | None:
    """Doubt a leak score above 1: the attack's mean error is below the ceiling's.

    A closed-form attack is not bound to the prior and may be nearer: a note.
    """
    if not (group.has(HEADLINE) and group.has(HEADLINE, "ceiling")):
        return None
    attack, ceiling = group.per_image("attack", HEADLINE), group.per_image("ceiling", HEADLINE)
    if mean_of(attack) >= mean_of(ceiling):
        return None
    nearer = sum(attack[image] < ceiling[image] for image in attack)
    severity, why = CLOSED_FORM if group.cell.attacker == ANALYTIC else SEARCHED
    message = (
        f"The attack's mean error {mean_of(attack):.3g} is below the ceiling's {mean_of(ceiling):.3g}, on "
        f"{nearer} of {len(attack)} images: {why}."
    )
    return Flag("ceiling-below-attack", severity, group.cell, message, nearer)


def noise_ties(group: CellGroup) -> Flag | None:
    """Say that no leak may be claimed: the attack on noise of the gradient's norm comes as near.

    A doubt where a leak is claimed all the same, or where even the noise's pictures identify; else a note.
    """
    if not (group.has(HEADLINE) and group.has(HEADLINE, "noise")):
        return None
    attack, noise = group.per_image("attack", HEADLINE), group.per_image("noise", HEADLINE)
    if is_lower(attack, noise):
        return None
    told = group.has("rank", "noise") and identifies(group.scores("noise"))
    message = (
        f"The attack's mean error {mean_of(attack):.3g} is not shown to be below the noise control's "
        f"{mean_of(noise):.3g} over {group.n} images (p = {p_value(attack, noise):.2g}): no leak of pixels "
        "may be claimed here."
    )
    severity: Severity = "doubt" if told or group.verdict == "leaks" else "note"
    return Flag("noise-ties", severity, group.cell, message, group.count("ok"))


def random_ties(group: CellGroup, baseline: CellGroup) -> Flag | None:
    """Doubt a strategy that finds no more than random draws with the same budget.

    A note where its mean is lower, but not significantly, or where the attack is not shown to be better
    than its noise control either, so that there may be nothing to find.
    """
    pair = _pair(group, baseline)
    if pair is None or is_lower(*pair):
        return None
    severity, meaning = SEARCHLESS
    if noise_ties(group) is not None:
        severity, meaning = EMPTY
    elif mean_of(pair[0]) < mean_of(pair[1]):
        severity, meaning = UNDECIDED
    message = (
        f"The mean error {mean_of(pair[0]):.3g} is not shown to be below random search's "
        f"{mean_of(pair[1]):.3g} over {len(pair[0])} images (p = {p_value(*pair):.2g}): {meaning}."
    )
    return Flag("random-ties", severity, group.cell, message, group.count("ok"))


def adaptive_worse(group: CellGroup, lesser: CellGroup) -> Flag | None:
    """Doubt an attacker who does worse than one who knows less: such a defense looks better than it is.

    The difference has to be significant: where the knowledge is of no use, half of all means are higher.
    """
    pair = _pair(group, lesser)
    if pair is None or len(pair[0]) < FEWEST_IMAGES or not is_lower(pair[1], pair[0]):
        return None
    knowing, naive = group.cell.attacker, lesser.cell.attacker
    message = (
        f"The {knowing} attacker's mean error {mean_of(pair[0]):.3g} is above the {naive} one's "
        f"{mean_of(pair[1]):.3g} over {len(pair[0])} images (p = {p_value(*pair):.2g})."
    )
    return Flag("adaptive-worse", "doubt", group.cell, message, group.count("ok"))


def mean_of(errors: Errors) -> float:
    """Return the mean over images."""
    return fmean(errors.values())


def p_value(a: Errors, b: Errors) -> float:
    """Return the paired test's p-value of two means over the same images."""
    return paired_test(list(a.values()), list(b.values()))


def is_lower(a: Errors, b: Errors) -> bool:
    """Say whether a's mean is lower: significantly so, where there are images enough for the test."""
    return mean_of(a) < mean_of(b) and (len(a) < FEWEST_IMAGES or p_value(a, b) < SIGNIFICANCE)


def _pair(group: CellGroup, other: CellGroup) -> tuple[Errors, Errors] | None:
    """Return two groups' headline errors of the images that both have, if any."""
    if not (group.has(HEADLINE) and other.has(HEADLINE)):
        return None
    first, second = group.per_image("attack", HEADLINE), other.per_image("attack", HEADLINE)
    common = [image for image in first if image in second]
    pair = {image: first[image] for image in common}, {image: second[image] for image in common}
    return pair if common else None
