"""What a defense does to clients' gradients, one image a client, draw by draw."""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn

from ggl.base.errors import InputError
from ggl.base.random import stream, stream_seed
from ggl.defenses import Client, Defense
from ggl.gradients import GradientOracle, Gradients
from ggl.gradients.oracle import check_finite
from ggl.gradients.sampled import sampled_layers

__all__ = ["Draws", "Perturbation", "perturbations", "wrapped_victim"]


@dataclass(frozen=True)
class Draws:
    """The draws of a defense's own randomness, and the round of training that they are of.

    Attributes:
        count: for each image, at least 1.
        seed: of every random draw.
        round: rounds of training before this one.
        rounds: rounds of training in all.

    Raises:
        InputError: no draw.
    """

    count: int = 1
    seed: int = 0
    round: int = 0
    rounds: int = 10_000

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"expected at least 1 draw of the defense's randomness, found {self.count}")


@dataclass(frozen=True)
class Perturbation:
    """What a defense did to one gradient.

    Attributes:
        image: the image's number.
        draw: the number of the defense's random draw.
        gradient: the client's own.
        shared: what the client shares.
    """

    image: int
    draw: int
    gradient: Gradients
    shared: Gradients

    @property
    def delta(self) -> Gradients:
        """What was added, whether the defense adds or multiplies: shared less own."""
        return {name: self.shared[name].to(g) - g for name, g in self.gradient.items()}


def wrapped_victim(defense: Defense, victim: nn.Module, seed: int) -> nn.Module:
    """Return the victim that a defense's clients train, whose gradients are functions of their images.

    Raises:
        InputError: the defense puts layers in that sample.
    """
    model = defense.wrap(victim, seed)
    if model is victim:
        return victim
    sampled = next(iter(sampled_layers(model)), None)
    if sampled is not None:
        raise InputError(
            f"defense {defense.name} puts the layer {sampled!r} that draws noise on every pass into the "
            "victim: its gradient is no function of the image; leave it out"
        )
    return model.to(next(victim.parameters()))


def perturbations(
    victim: nn.Module,
    images: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    defense: Defense,
    draws: Draws | None = None,
) -> Iterator[Perturbation]:
    """Yield what a defense does to every image's gradient, all draws of an image in a row.

    Draw 0 of an image is what `ggl.audit` meets with this seed, victim and image number.

    Args:
        victim: as `wrapped_victim` returns it.
        images: in [0, 1].
        labels: their classes.
        defense: what protects.
        draws: which, one by default.

    Raises:
        GradientError: a gradient that is zero or not finite.
    """
    oracle, drawn = GradientOracle(victim), draws or Draws()
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        for draw in range(drawn.count):
            client = Client(
                oracle,
                image[None],
                label[None],
                seed=stream_seed(drawn.seed, "client noise", "private", i),
                round=drawn.round,
                rounds=drawn.rounds,
            )
            names = ("client", defense.name, "private", i, *(("draw", draw) if draw else ()))
            shared = check_finite(
                defense.share(client, stream(drawn.seed, *names)), f"a gradient under {defense.name}"
            )
            yield Perturbation(i, draw, client.gradient(), shared)
