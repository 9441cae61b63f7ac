"""Doubts from curves: searches whose error does not follow their loss, or that were cut short."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from ggl.benchmarks.checks.courses import Course, courses_of, slowing
from ggl.benchmarks.checks.error_checks import Errors, is_lower, mean_of, p_value
from ggl.benchmarks.checks.flag import Flag, Severity
from ggl.benchmarks.sweeps.aggregate import CellGroup
from ggl.benchmarks.sweeps.records import CurvePoint
from ggl.measures.leakage import HEADLINE

__all__ = ["is_random", "loss_without_error", "still_improving"]

FEWEST_DOUBLINGS = 3
SLOWED = 0.7
"""Of the loss's mean fall by doubling of the evaluations, what the last doubling may still bring.

A loss that falls evenly with their logarithm has 1, a search that has converged 0. Over the seven halvings
that a curve notes, 0.7 is a tenth of the whole fall. CMA-ES on LeNet has 0.02 to 0.38 after 2,000 evaluations
(docs/flags.md).
"""

GAINED = 0.05
"""Leak score: a last doubling that brought more leaves the figure too low to be quoted as the defense's.

The loss alone does not tell: most of its fall is the latents' penalty and the first steps.
"""


def loss_without_error(group: CellGroup) -> Flag | None:
    """Say that what the search minimizes is not what the figure measures.

    From the first milestone to the last, most cells' loss fell, and the mean error is not shown to have. A
    doubt where a leak is claimed and the mean is no lower: the leak was there before the search. Random
    search is not asked.
    """
    courses = {} if is_random(group) else courses_of(group)
    both = [course for each in courses.values() for course in each]
    fallen = sum(course.last.loss < course.first.loss for course in both)
    first, last = _errors(courses, lambda course: course.first), _errors(courses, lambda course: course.last)
    if fallen <= len(both) / 2 or is_lower(last, first):
        return None
    message = (
        f"The loss fell in {fallen} of {len(both)} cells, and the mean error went from {mean_of(first):.3g} "
        f"to {mean_of(last):.3g} over {len(first)} images (p = {p_value(first, last):.2g})."
    )
    risen = mean_of(last) >= mean_of(first)
    severity: Severity = "doubt" if risen and group.verdict == "leaks" else "note"
    return Flag("loss-without-error", severity, group.cell, message, fallen)


def still_improving(group: CellGroup) -> Flag | None:
    """Say that a larger budget would have found a lower loss.

    The last doubling of the evaluations brought more than `SLOWED` of what doublings brought on average, or
    more than `GAINED` of leak score; the latter is a doubt. Random search, which never converges, is not
    asked.
    """
    courses = {} if is_random(group) else courses_of(group)
    long = [c for each in courses.values() for c in each if c.doublings(c.first) >= FEWEST_DOUBLINGS]
    if not long:
        return None
    speed, gained = slowing(long), _gained(group, courses)
    if speed <= SLOWED and gained <= GAINED:
        return None
    message = (
        f"The last doubling of the evaluations brought {speed:.0%} of the mean fall of the loss by doubling, "
        f"over {len(long)} cells, and {gained:.2f} of leak score."
    )
    return Flag("still-improving", "doubt" if gained > GAINED else "note", group.cell, message, len(long))


def is_random(group: CellGroup) -> bool:
    """Say whether a group is the baseline."""
    return group.cell.strategy.split(":")[0] == "random"


def _errors(courses: Mapping[int, Sequence[Course]], point: Callable[[Course], CurvePoint]) -> Errors:
    """Return every image's error at a point of its courses, the mean over seeds."""
    return {image: fmean(point(course).mse for course in each) for image, each in courses.items()}


def _gained(group: CellGroup, courses: Mapping[int, Sequence[Course]]) -> float:
    """Return the leak score that the last doubling brought; 0 where it is not shown to have."""
    half, last = _errors(courses, lambda course: course.half), _errors(courses, lambda course: course.last)
    if not is_lower(last, half) or group.leak is None or math.isnan(group.leak.interval.mean):
        return 0.0
    control, ceiling = (mean_of(group.per_image(s, HEADLINE)) for s in (group.leak.control, "ceiling"))
    return (mean_of(half) - mean_of(last)) / (control - ceiling)
