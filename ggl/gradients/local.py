"""What a FedAvg client shares: its update after several local steps, in units of gradients."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from ggl.base.errors import InputError
from ggl.gradients.sampled import sampled_layers
from ggl.gradients.view import Gradients

__all__ = ["LocalTraining", "local_update", "refuse_drawing", "refuse_sampled"]


@dataclass(frozen=True)
class LocalTraining:
    """A FedAvg client's local steps of SGD with momentum (McMahan et al., arXiv 1602.05629, algorithm 1).

    From the server's weights w, v ← m v + g(w), w ← w - η v, `steps` times.

    Attributes:
        steps: K, at least 1.
        learning_rate: η, above 0.
        momentum: m, from 0 to below 1.
        batch_size: s, images in a step's minibatch: step k takes the client's images k s to (k + 1) s, and
            begins again at the first where they end. None takes the whole batch at every step.

    Raises:
        InputError: a number that is out of its range.
    """

    steps: int
    learning_rate: float
    momentum: float = 0.0
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"expected at least 1 local step, found {self.steps}")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise InputError(f"expected a finite local learning rate above 0, found {self.learning_rate}")
        if not 0 <= self.momentum < 1:
            raise InputError(f"expected a local momentum from 0 to below 1, found {self.momentum}")
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"expected at least 1 image in a local minibatch, found {self.batch_size}")

    def check(self, images: int) -> None:
        """Raise `InputError` unless every image of a client's batch is in some step."""
        if self.batch_size is not None and self.steps * self.batch_size < images:
            raise InputError(
                f"expected local steps that take every image, found {self.steps} of {self.batch_size} for "
                f"{images} images; give more steps, or larger ones"
            )

    @property
    def gradients(self) -> float:
        """How many gradients the update is the sum of: Σₖ (1 - mᵏ) / (1 - m), K without momentum."""
        return sum((1 - self.momentum**k) / (1 - self.momentum) for k in range(1, self.steps + 1))

    def rows(self, step: int, images: int) -> list[int]:
        """Return which of the client's images a step takes.

        Args:
            step: from 0.
            images: how many the client holds.

        Raises:
            InputError: the minibatch is larger than that.
        """
        size = images if self.batch_size is None else self.batch_size
        if size > images:
            raise InputError(
                f"expected a local minibatch of at most the client's {images} images, found {size}; "
                "lower the batch size"
            )
        return [(step * size + i) % images for i in range(size)]


def local_update(
    local: LocalTraining,
    weights: Gradients,
    images: int,
    gradient: Callable[[Gradients, list[int]], Gradients],
) -> Gradients:
    """Return U = Σₖ vₖ = (w_before - w_after) / η, which after one step is the gradient itself.

    Args:
        local: the steps.
        weights: the server's, by parameter name.
        images: how many the client holds.
        gradient: of the mean loss, from weights and from which of the images.
    """
    velocity = update = gradient(weights, local.rows(0, images))
    for step in range(1, local.steps):
        weights = {name: w - local.learning_rate * velocity[name] for name, w in weights.items()}
        found = gradient(weights, local.rows(step, images))
        velocity = {name: local.momentum * velocity[name] + g for name, g in found.items()}
        update = {name: total + velocity[name] for name, total in update.items()}
    return update


def refuse_sampled(model: nn.Module, local: LocalTraining) -> None:
    """Refuse several local steps of a victim with layers that sample."""
    for name, layer in sampled_layers(model).items():
        refuse_drawing(f"{name!r} ({type(layer).__name__})", local)


def refuse_drawing(where: str, local: LocalTraining) -> None:
    """Refuse several local steps of a victim that draws noise, naming where it does."""
    raise InputError(
        f"{local.steps} local steps of a victim that draws noise at every step are not supported, found "
        f"{where}; use one step, or for dropout call eval()"
    )
