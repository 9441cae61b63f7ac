"""Distances between a trial gradient and the observed one, in two equal forms.

The plain form reads the gradients; the moment form reads, per candidate and parameter, the inner
product with the target and the squared norm, and needs no gradient.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ggl.base.registry import unknown_name
from ggl.gradients.view import Clip, Gradients, View, clip_factor

__all__ = ["DISTANCES", "Distance", "Moments", "distance_from_moments", "find_distance", "plain_distance"]

TINY = 1e-30
"""Keeps a zero gradient's cosine distance at 1 and its derivative finite."""


@dataclass(frozen=True)
class Moments:
    """Of n candidates and L parameters: ⟨g, target⟩, ‖g‖², and ‖g‖² on the view's mask, each (n, L)."""

    dot: Tensor
    square: Tensor
    masked_square: Tensor | None = None


@dataclass(frozen=True)
class Distance:
    """One distance: from two gradients, and from ⟨g, t⟩, ‖g‖² and ‖t‖² per parameter, (..., L) each."""

    plain: Callable[[Gradients, Gradients], Tensor]
    from_moments: Callable[[Tensor, Tensor, Tensor], Tensor]


def _dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([(a[name] * b[name]).sum() for name in b]).sum()


def _squared_cosines(dot: Tensor, square: Tensor, target_square: Tensor) -> Tensor:
    return (dot.square() / (square * target_square).clamp_min(TINY)).mean(-1)


def _moments_of(g: Gradients, t: Gradients) -> tuple[Tensor, Tensor, Tensor]:
    pairs = [(g[name], t[name]) for name in t]
    rows = [torch.stack([(a * b).sum(), a.square().sum(), b.square().sum()]) for a, b in pairs]
    dot, square, target_square = torch.stack(rows).unbind(-1)
    return dot, square, target_square


def _cosine(dot: Tensor, square: Tensor, target_square: Tensor) -> Tensor:
    return 1 - dot / (square.clamp_min(TINY).sqrt() * target_square.clamp_min(TINY).sqrt())


DISTANCES: dict[str, Distance] = {
    "l2": Distance(
        plain=lambda g, t: torch.stack([(g[name] - t[name]).square().sum() for name in t]).sum(),
        from_moments=lambda dot, square, target: (square - 2 * dot + target).sum(-1),
    ),
    "cosine": Distance(
        plain=lambda g, t: _cosine(_dot(g, t), _dot(g, g), _dot(t, t)),
        from_moments=lambda dot, square, target: _cosine(dot.sum(-1), square.sum(-1), target.sum(-1)),
    ),
    "orthogonal": Distance(
        plain=lambda g, t: _squared_cosines(*_moments_of(g, t)), from_moments=_squared_cosines
    ),
}
"""`l2`: squared L2 over all coordinates (DLG, arXiv 1906.08935, eq. 4). `cosine`: one minus the
cosine of the whole gradients (Inverting Gradients, arXiv 2003.14053, eq. 4). `orthogonal`: the mean
squared cosine of the parameters' gradients, for an observed gradient that was made orthogonal to them."""


def find_distance(name: str) -> Distance:
    """Return the distance of that name."""
    if name not in DISTANCES:
        raise unknown_name("distance", name, sorted(DISTANCES))
    return DISTANCES[name]


def plain_distance(gradients: Gradients, view: View, distance: Distance) -> Tensor:
    """Return the distance of a trial gradient to the view's target, steps applied, a scalar."""
    return _chosen(view, distance).plain(view.apply(gradients), view.goal)


def distance_from_moments(
    moments: Moments, view: View, names: Sequence[str], distance: Distance
) -> Float[Tensor, " n"]:
    """Return every candidate's distance to the view's target, steps applied, from moments alone.

    `moments.dot` is taken with the masked target: ⟨m ⊙ g, t⟩ = ⟨g, m ⊙ t⟩.
    """
    dot, square, masked = moments.dot, moments.square, moments.masked_square
    for step in view.steps:
        if isinstance(step, Clip):
            scale = _clip_scale(step, square, names)
            dot, square = dot * scale, square * scale.square()
            masked = None if masked is None else masked * scale.square()
        elif masked is not None:
            square = masked
    kept = [k for k, name in enumerate(names) if name not in view.ignored]
    if len(kept) < len(names):
        places = torch.tensor(kept).to(dot.device, non_blocking=True)
        dot, square = dot[:, places], square[:, places]
    target = torch.stack([view.squares[names[k]] for k in kept]).to(square.dtype)
    return _chosen(view, distance).from_moments(dot, square, target)


def _chosen(view: View, distance: Distance) -> Distance:
    return distance if view.distance is None else find_distance(view.distance)


def _clip_scale(step: Clip, square: Tensor, names: Sequence[str]) -> Tensor:
    if isinstance(step.bound, Mapping):
        bounds = torch.tensor([step.bound[name] for name in names], dtype=square.dtype)
        bounds = bounds.to(square.device, non_blocking=True)
        return clip_factor(_root(square), bounds)
    return clip_factor(_root(square.sum(-1, keepdim=True)), step.bound)


def _root(square: Tensor) -> Tensor:
    return square.clamp_min(TINY).sqrt()
