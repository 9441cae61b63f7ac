"""Doubt flags over the groups of a store: every check that there is."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from ggl.benchmarks.checks.cell_checks import (
    failed_cells,
    few_images,
    objective_zero,
    private_not_matched,
    shared_image,
)
from ggl.benchmarks.checks.course_checks import is_random, loss_without_error, still_improving
from ggl.benchmarks.checks.error_checks import adaptive_worse, ceiling_below_attack, noise_ties, random_ties
from ggl.benchmarks.checks.flag import CHECKS, Flag, Severity
from ggl.benchmarks.checks.guarantee_checks import beyond_guarantee
from ggl.benchmarks.sweeps.aggregate import CellGroup
from ggl.benchmarks.sweeps.cells import SweepCell

__all__ = ["CHECKS", "Flag", "Severity", "flags", "severest"]

KNOWING = ("naive", "adaptive", "informed")
"""Attackers, each of whom knows all that those before know."""

Check: TypeAlias = Callable[[CellGroup], Flag | None]
Comparison: TypeAlias = Callable[[CellGroup, CellGroup], Flag | None]

ALONE: tuple[Check, ...] = (
    *(objective_zero, shared_image, failed_cells, ceiling_below_attack, private_not_matched),
    beyond_guarantee,
    *(noise_ties, loss_without_error, still_improving, few_images),
)


def flags(groups: Sequence[CellGroup]) -> list[Flag]:
    """Return every flag of every group: doubts first, then in the order of `CHECKS` and of the groups."""
    found = [flag for check in ALONE for group in groups if (flag := check(group)) is not None]
    pairs = [(random_ties, _baselines(groups)), (adaptive_worse, _less_knowing(groups))]
    for comparison, rivals in pairs:
        found += [flag for pair in rivals if (flag := comparison(*pair)) is not None]
    order, place = list(CHECKS), {group.cell: i for i, group in enumerate(groups)}
    return sorted(found, key=lambda flag: (flag.severity, order.index(flag.name), place[flag.group]))


def severest(found: Sequence[Flag]) -> dict[SweepCell, Severity]:
    """Return the severity of the gravest flag of every group that has one."""
    return {f.group: f.severity for severity in ("note", "doubt") for f in found if f.severity == severity}


def _baselines(groups: Sequence[CellGroup]) -> Iterator[tuple[CellGroup, CellGroup]]:
    """Yield every group with the random search that shares all its axes but the strategy."""
    known: dict[SweepCell, CellGroup] = {}
    for group in groups:
        if is_random(group):
            known.setdefault(replace(group.cell, strategy=""), group)
    for group in groups:
        baseline = known.get(replace(group.cell, strategy=""))
        if baseline is not None and not is_random(group):
            yield group, baseline


def _less_knowing(groups: Sequence[CellGroup]) -> Iterator[tuple[CellGroup, CellGroup]]:
    """Yield every group with those of attackers who know less, all other axes being equal."""
    known = {group.cell: group for group in groups}
    for group in groups:
        if group.cell.attacker in KNOWING:
            for attacker in KNOWING[: KNOWING.index(group.cell.attacker)]:
                if (lesser := known.get(replace(group.cell, attacker=attacker))) is not None:
                    yield group, lesser
