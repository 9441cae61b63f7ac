"""The course of a search: from its first finite loss to its end, by doublings of its evaluations."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ggl.benchmarks.sweeps.aggregate import CellGroup
from ggl.benchmarks.sweeps.records import CurvePoint, Record

__all__ = ["Course", "courses_of", "slowing"]

HALF_WAY = 2 / 3
"""Of the evaluations, at most: milestones lie at a halving of the budget or within a generation after."""


@dataclass(frozen=True)
class Course:
    """What a search had found on its way; at least two points, of finite loss and error."""

    points: tuple[CurvePoint, ...]

    @property
    def first(self) -> CurvePoint:
        """Return the earliest milestone."""
        return self.points[0]

    @property
    def last(self) -> CurvePoint:
        """Return what came out."""
        return self.points[-1]

    @property
    def half(self) -> CurvePoint:
        """Return the last milestone about half way, or the first."""
        early = [p for p in self.points if p.evaluations <= HALF_WAY * self.last.evaluations]
        return early[-1] if early else self.first

    def doublings(self, since: CurvePoint) -> float:
        """Return how often the evaluations doubled since a milestone."""
        return math.log2(self.last.evaluations / since.evaluations)


def courses_of(group: CellGroup) -> dict[int, list[Course]]:
    """Return the courses of every image's cells, of the images that count, where they have one each."""
    found = {image: [_course(cell) for cell in cells] for image, cells in group.by_image.items()}
    known = {image: [course for course in each if course is not None] for image, each in found.items()}
    return {image: each for image, each in known.items() if len(each) == group.seeds}


def slowing(courses: Sequence[Course]) -> float:
    """Return the loss's fall in the last doubling of the evaluations, over its mean fall by doubling.

    1 is a loss that falls evenly with the logarithm of the evaluations, 0 a search that has converged.
    """
    whole = sum(course.first.loss - course.last.loss for course in courses)
    last = sum(course.half.loss - course.last.loss for course in courses)
    if whole <= 0:
        return 0.0
    lengths = [
        sum(course.doublings(point) for course, point in zip(courses, points, strict=True))
        for points in ([course.first for course in courses], [course.half for course in courses])
    ]
    return (last / lengths[1]) / (whole / lengths[0])


def _course(record: Record) -> Course | None:
    """Return a cell's milestones and its end, which is none where whole generations leave a remainder."""
    points = [p for p in record.curve if math.isfinite(p.loss) and math.isfinite(p.mse)]
    end = _end(record.figures, points[-1].seconds) if points else None
    if end is not None and end.evaluations > points[-1].evaluations:
        points.append(end)
    return Course(tuple(points)) if len(points) > 1 else None


def _end(figures: Mapping[str, float | int | None], seconds: float) -> CurvePoint | None:
    evaluations, loss, mse = (figures.get(name) for name in ("evaluations", "loss", "attack_mse"))
    if evaluations is None or loss is None or mse is None or not math.isfinite(loss + mse):
        return None
    return CurvePoint(int(evaluations), seconds, float(loss), float(mse))
