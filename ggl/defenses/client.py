"""What a client has at hand when it defends a gradient."""

import copy
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field, replace

from jaxtyping import Float, Int
from torch import Tensor, nn

from ggl.base.errors import InputError
from ggl.base.random import stream_seed
from ggl.gradients import GradientOracle, Gradients
from ggl.gradients.oracle import check_finite
from ggl.gradients.sampled import draw_noise

__all__ = ["Client"]


@dataclass(frozen=True)
class Client:
    """A client that is about to share: its victim, its batch, and where training is.

    Attributes:
        oracle: of the victim, as its defense wrapped it.
        images: the private batch (b, c, h, w) in [0, 1].
        labels: its classes (b,).
        seed: of the noise that the victim's own sampled layers draw.
        round: how many rounds of training came before this one.
        rounds: how many there will be in all, for defenses that follow a schedule.
        memory: what a defense keeps from one round to the next; the one thing that `share` changes.
        computed: a gradient that stands for the batch's own: an earlier defense's, or a control's.
        made_examples: makes every example's gradient, where a control makes these up too.
    """

    oracle: GradientOracle
    images: Float[Tensor, "b c h w"]
    labels: Int[Tensor, " b"]
    seed: int = 0
    round: int = 0
    rounds: int = 1
    memory: MutableMapping[str, Gradients] = field(default_factory=dict)
    computed: Gradients | None = None
    made_examples: Callable[[], Sequence[Gradients]] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.round < self.rounds:
            raise InputError(f"expected a round from 0 to below {self.rounds}, found {self.round}")

    @property
    def model(self) -> nn.Module:
        """The victim; read it, copy it, but leave it as it is."""
        return self.oracle.model

    @property
    def progress(self) -> float:
        """How much of training is done, from 0 to below 1."""
        return self.round / self.rounds

    def copied_model(self) -> nn.Module:
        """Return a copy of the victim; its sampled layers draw what they drew for this client's gradient."""
        model = copy.deepcopy(self.oracle.model)
        draw_noise(model, stream_seed(self.seed, "client"))
        return model

    def gradient(self) -> Gradients:
        """Return the gradient of the batch's mean loss, or the computed one.

        Raises:
            GradientError: it is not finite, or the batch's own is zero.
        """
        if self.computed is not None:
            return check_finite(self.computed, "the gradient to be defended")
        return self.oracle.observe(self.images, self.labels, seed=self.seed)

    def examples(self) -> list[Gradients]:
        """Return every example's own gradient; one that is fitted exactly has a zero one.

        Raises:
            InputError: another defense has mixed them already, or local steps have.
        """
        if self.made_examples is not None:
            return list(self.made_examples())
        if self.computed is not None:
            if len(self.images) > 1:
                raise InputError(
                    "a defense that needs every example's gradient must come first: those of "
                    f"{len(self.images)} examples have been mixed already"
                )
            return [self.gradient()]
        local = self.oracle.local
        if local is not None and not local.is_gradient:
            raise InputError(
                "a defense that needs every example's gradient defends every step: expected clients of one "
                f"step, found {local.steps} local steps"
            )
        pairs = zip(self.images, self.labels, strict=True)
        return [
            self.oracle.gradient(image[None], label[None], seed=self.seed + i)
            for i, (image, label) in enumerate(pairs)
        ]

    def with_examples(self, make: Callable[[], Sequence[Gradients]]) -> "Client":
        """Return the client with gradients of its examples that a control makes up, if they are asked for."""
        return replace(self, made_examples=make)

    def after(self, gradients: Gradients) -> "Client":
        """Return the client once a defense has made `gradients` of its own."""
        return replace(self, computed=gradients, made_examples=None)
