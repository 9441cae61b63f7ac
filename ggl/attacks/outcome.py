"""What a target's searches come to: the best of restarts, and one image of each one's copies."""

from collections.abc import Sequence
from dataclasses import replace

from ggl.attacks.course import SearchResult
from ggl.measures.metrics import match

__all__ = ["merged", "winner"]


def winner(restarts: Sequence[SearchResult]) -> SearchResult:
    """Return the result of least loss, with the evaluations and backward passes of all."""
    return replace(
        min(restarts, key=lambda result: result.loss),
        evaluations=sum(result.evaluations for result in restarts),
        backward_passes=sum(result.backward_passes for result in restarts),
    )


def merged(result: SearchResult, copies: int) -> SearchResult:
    """Return a result with one image of its copies: the mean, epochs matched to the first, class by class."""
    if copies == 1:
        return result
    first, *others = result.images.chunk(copies)
    labels, total = result.labels[: len(first)], first.clone()
    for other in others:
        for rows in (labels == label for label in labels.unique()):
            total[rows] += other[rows][match(other[rows], first[rows])]
    return replace(result, images=total / copies, labels=labels)
