"""Residuals of gradients: what a search is told that uses more of an evaluation than one number."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ggl.base.errors import InputError
from ggl.gradients.backends import Backend
from ggl.gradients.distance import find_distance
from ggl.gradients.oracle import GradientOracle
from ggl.gradients.sampled import Trial
from ggl.gradients.sketch import Sketch, SketchAsked
from ggl.gradients.view import View

__all__ = ["GradientResiduals", "check_sum_of_squares", "is_separable", "is_sum_of_squares"]

SQUARES = {"cosine": True, "l2": False}
"""Distances that are sums of squares, and whether of unit vectors: 1 - cos = ‖g/‖g‖ - t/‖t‖‖² / 2."""


class GradientResiduals:
    """Scores candidates against several views, and returns sketches of what the views compare.

    Attributes:
        sketch: S, the same for all candidates and views.
        targets: (k, m), the sketches of what each view compares of its observed gradient.
        unit: whether the distance is of unit vectors.
        apart: whether every image has a sketch of its own share, S T(gᵢ) / b, which add up to the batch's;
            else there is one of the batch.

    Args:
        oracle: of the victim.
        views: prepared, one a search, all of one kind.
        distance: "cosine" or "l2".
        trial: how noise is drawn on a victim that samples.
        seed: of the sketch's probes.

    Raises:
        InputError: a distance that is no sum of squares.
    """

    def __init__(
        self, oracle: GradientOracle, views: Sequence[View], distance: str, trial: Trial, seed: int = 0
    ) -> None:
        compared = views[0].distance or distance
        check_sum_of_squares(compared)
        self.oracle, self.views, self.distance, self.trial = oracle, views, distance, trial
        self.unit = SQUARES[compared]
        shapes = {name: tuple(g.shape) for name, g in views[0].goal.items()}
        self.sketch = Sketch(shapes, seed).to(oracle.device, oracle.dtype)
        self.targets = torch.stack([self.sketch.apply(view.goal) for view in views])
        self.apart = all(is_separable(oracle, view) for view in views)

    def measure(
        self,
        candidates: Float[Tensor, "p b c h w"],
        labels: Int[Tensor, "p b"] | Float[Tensor, "p b k"],
        chosen: Sequence[int],
        counts: Sequence[int],
    ) -> tuple[Float[Tensor, " p"], Float[Tensor, "p parts m"]]:
        """Return distances, and sketches of every image's share, or of the batch: parts is b or 1."""
        asked = SketchAsked(self.sketch, find_distance(self.distance), self.apart)

        def sketch(
            backend: Backend, x: Tensor, y: Tensor, views: Sequence[View], counts: Sequence[int]
        ) -> Tensor:
            return backend.sketch(x, y, views, counts, asked)

        views = [self.views[k] for k in chosen]
        found = self.oracle.map_groups(candidates, labels, views, counts, self.trial, sketch)
        return found[:, 0], found[:, 1:].unflatten(1, (-1, self.sketch.size))


def check_sum_of_squares(distance: str) -> None:
    """Raise `InputError` unless a search can be told the residuals of a distance."""
    if distance not in SQUARES:
        raise InputError(
            f"expected a distance that is a sum of squares, {' or '.join(SQUARES)}, for a search that is "
            f"told residuals; found {distance!r}: take a search that needs losses alone, such as cma-es"
        )


def is_sum_of_squares(view: View, distance: str) -> bool:
    """Whether the distance that a view is compared by is a sum of squares."""
    return (view.distance or distance) in SQUARES


def is_separable(oracle: GradientOracle, view: View) -> bool:
    """Whether what a view compares of a batch is the mean of what it compares of each image alone.

    Not where images mix (batch normalization in train mode, a loss that gives one number for a batch), where
    what is drawn for an image goes by its place in the batch, after several local steps, nor where a view's
    step is not linear.
    """
    norms = nn.modules.batchnorm._BatchNorm
    mixes = any(module.training and isinstance(module, norms) for module in oracle.model.modules())
    several = oracle.local is not None and not oracle.local.is_gradient
    whole = not oracle.has_image_losses
    return view.is_linear and not (mixes or several or whole or oracle.is_sampled)
