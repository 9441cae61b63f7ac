"""What a FedAvg client shares: its update after several local steps, in units of gradients."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from torch import nn

from ggl.base.errors import InputError
from ggl.base.random import numpy_stream, stream_seed
from ggl.base.registry import unknown_name
from ggl.gradients.client_optimizers import ClientOptimizer, Sgd, State, load_client_optimizer
from ggl.gradients.sampled import sampled_layers
from ggl.gradients.view import Gradients

__all__ = ["ORDERS", "LocalTraining", "local_update", "refuse_drawing", "refuse_sampled"]


ORDERS: Mapping[str, str] = {
    "given": "the images in their order, round and round",
    "known": "shuffled, and the attacker is told how",
    "guessed": "shuffled; the attacker simulates a shuffling of its own",
    "whole": "shuffled; the attacker simulates every step on the whole batch",
    "copies": "shuffled; the attacker searches a copy of every image an epoch, tied together",
}
"""Of the images within local epochs, and what an attacker does about it."""


@dataclass(frozen=True)
class LocalTraining:
    """A FedAvg client's local steps (McMahan et al., arXiv 1602.05629, algorithm 1).

    From the server's weights w, `steps` times w ← w - η f_k d_k, d_k the direction of the client's optimizer,
    whose state is fresh at the first step of a round; of SGD with momentum v ← m v + g(w), w ← w - η v.

    Attributes:
        steps: K, at least 1.
        learning_rate: η, above 0.
        momentum: m of SGD, from 0 to below 1; another optimizer's stands in its text.
        batch_size: s, images in a step's minibatch: step k takes the client's images k s to (k + 1) s, and
            begins again at the first where they end. None takes the whole batch at every step.
        optimizer: such as "adamw:weight_decay=0.1", "sgd:momentum=0.9,nesterov=1,clip_norm=1" or
            "adam:schedule=cosine"; by default SGD. `ggl.gradients.client_optimizers` has the options.
        order: "given", or for clients that shuffle their images anew for every epoch what an attacker makes
            of it, of `ORDERS`; then minibatches divide the batch and steps are whole epochs.
        order_seed: of the shuffling.
        tie: λ, of the penalty on epochs' copies that differ, under "copies".

    Raises:
        UnknownNameError: an optimizer or an option of it that is not known.
        InputError: a number that is out of its range.

    Examples:
        >>> ggl.LocalTraining(4, 1e-3, optimizer="adamw:weight_decay=0.1").cannot_tell
        ['a factor of all gradients alike, such as a loss that is summed, not averaged']
    """

    steps: int
    learning_rate: float
    momentum: float = 0.0
    batch_size: int | None = None
    optimizer: str = "sgd"
    order: str = "given"
    order_seed: int = 0
    tie: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"expected at least 1 local step, found {self.steps}")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise InputError(f"expected a finite local learning rate above 0, found {self.learning_rate}")
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"expected at least 1 image in a local minibatch, found {self.batch_size}")
        if self.order not in ORDERS:
            raise unknown_name("order of local steps", self.order, list(ORDERS))
        if not 0 <= self.tie < math.inf:
            raise InputError(f"expected a finite tie of copies of at least 0, found {self.tie}")
        _ = self.rule

    @cached_property
    def rule(self) -> ClientOptimizer:
        """The optimizer, loaded."""
        rule, rate = load_client_optimizer(self.optimizer)
        if rate is not None:
            raise InputError(
                f"{self.optimizer!r}: expected the learning rate as `learning_rate`, found lr={rate:g}"
            )
        if not self.momentum:
            return rule
        if not isinstance(rule, Sgd) or rule.momentum:
            raise InputError(
                f"expected no momentum beside {self.optimizer!r}, found {self.momentum:g}; leave it out"
            )
        return replace(rule, momentum=self.momentum)

    @property
    def is_gradient(self) -> bool:
        """Whether the update is the gradient itself: one step of plain SGD, at the full learning rate."""
        return self.steps == 1 and isinstance(self.rule, Sgd) and self.rule.is_plain

    @property
    def cannot_tell(self) -> list[str]:
        """What the update does not say of the gradients, whoever reads it."""
        return self.rule.cannot_tell(self.steps)

    def to_dict(self) -> dict[str, object]:
        """Return what a result says of it."""
        return {
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "batch_size": self.batch_size,
            "order": self.order,
            "optimizer": self.rule.name,
            "optimizer_state": "fresh every round",
            "cannot_tell": self.cannot_tell,
        }

    def check(self, images: int) -> None:
        """Raise `InputError` unless every image of a client's batch is in some step."""
        if self.batch_size is not None and self.steps * self.batch_size < images:
            raise InputError(
                f"expected local steps that take every image, found {self.steps} of {self.batch_size} for "
                f"{images} images; give more steps, or larger ones"
            )
        if self.order != "given":
            self.epochs(images)

    def epochs(self, images: int) -> int:
        """Return how many times a client that shuffles takes every image.

        Raises:
            InputError: minibatches do not divide the batch, or steps are not whole epochs.
        """
        size = self.batch_size or images
        if images % size or size == images or self.steps * size % images:
            raise InputError(
                f"order {self.order!r}: expected smaller minibatches that divide the {images} images, and "
                f"whole epochs of them; found {self.steps} local steps of {size}"
            )
        return self.steps * size // images

    def copies(self, images: int) -> int:
        """Return how many copies of a client's images an attacker searches: one an epoch under "copies"."""
        return self.epochs(images) if self.order == "copies" else 1

    @property
    def attackers(self) -> "LocalTraining":
        """The local steps that an attacker simulates."""
        if self.order == "guessed":
            return replace(self, order="known", order_seed=stream_seed(self.order_seed, "guess"))
        if self.order == "whole":
            return replace(self, order="given", batch_size=None)
        return replace(self, order="given") if self.order == "copies" else self

    @property
    def gradients(self) -> float:
        """How many gradients the update is the sum of: of SGD Σₖ f_k (1 - mᵏ) / (1 - m), K without momentum.

        Of Adam, whose directions are not gradients, it is nominal: Σₖ f_k.
        """
        factors = [self.rule.rate(step, self.steps) for step in range(self.steps)]
        m = self.rule.momentum if isinstance(self.rule, Sgd) else 0.0
        return sum(f * (1 - m**k) / (1 - m) for k, f in enumerate(factors, 1))

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
        if self.order == "given":
            return [(step * size + i) % images for i in range(size)]
        self.epochs(images)
        epoch, first = divmod(step * size, images)
        order = numpy_stream(self.order_seed, "epoch", epoch).permutation(images)
        return [int(row) for row in order[first : first + size]]


def local_update(
    local: LocalTraining,
    weights: Gradients,
    images: int,
    gradient: Callable[[Gradients, list[int]], Gradients],
) -> Gradients:
    """Return U = Σₖ f_k d_k = (w_before - w_after) / η, which after a plain step is the gradient itself.

    Args:
        local: the steps.
        weights: the server's, by parameter name.
        images: how many the client holds.
        gradient: of the mean loss, from weights and from which of the images.
    """
    state: State = {}
    update: Gradients = {}
    for step in range(local.steps):
        found = gradient(weights, local.rows(step, images))
        direction, state = local.rule.direction(step, weights, found, state)
        factor = local.rule.rate(step, local.steps)
        moved = {name: factor * d for name, d in direction.items()} if factor != 1 else direction
        update = {name: update[name] + d for name, d in moved.items()} if update else moved
        weights = {name: w - local.learning_rate * moved[name] for name, w in weights.items()}
    return update


def refuse_sampled(model: nn.Module, local: LocalTraining) -> None:
    """Refuse several local steps, or other than plain ones, of a victim with layers that sample."""
    for name, layer in sampled_layers(model).items():
        refuse_drawing(f"{name!r} ({type(layer).__name__})", local)


def refuse_drawing(where: str, local: LocalTraining) -> None:
    """Refuse the local steps of a victim that draws noise, naming where it does."""
    steps = f"{local.steps} local steps" if local.steps > 1 else f"steps of {local.rule.name}"
    raise InputError(
        f"{steps} of a victim that draws noise at every step are not supported, found {where}; use one step "
        "of SGD, or for dropout call eval()"
    )
