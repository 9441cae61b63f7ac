"""Whether private images make the update that was captured of them; where not, what is likely."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ggl.audits.setting import AuditSetting
from ggl.audits.simulated_client import ALLOWED, BLIND, SMALL, Observed, SimulatedClient
from ggl.audits.suspects import Suspect, suspects
from ggl.base.errors import GGLError
from ggl.defenses import Defense, load_defense
from ggl.gradients import Gradients, LocalTraining
from ggl.gradients.checks import check_target
from ggl.victims.losses import Loss, load_loss

__all__ = ["TruthCheck", "TruthVerdict", "check_truth", "worst_check"]

TruthVerdict: TypeAlias = Literal["reproduced", "doubtful", "hidden"]
"""Hidden: rounding or noise, which steps multiply, hides so much that wrong settings could not be told."""

FITTED = 5
"""Suspects, the nearest in direction, whose learning rate is fitted where none reproduces the update."""

SINGLE = float(torch.finfo(torch.float32).eps)

UNABLE = (GGLError, RuntimeError, ValueError)
"""What a victim raises that cannot train so: a batch of one in train mode, images that overflow."""


@dataclass(frozen=True)
class TruthCheck:
    """How near a client's own update, simulated as it is said to train, comes to the captured one.

    Attributes:
        verdict: whether that reproduces it.
        distance: the L2 norm of the difference, beyond what is lost in files or differs by noise, relative
            to the captured update's.
        allowed: up to which it is taken to be reproduced.
        cosine: of the two, which does not see a scale.
        blindness: the share of the update that may be wrong unseen.
        draws: simulated updates; more than one where the defense or the victim draws noise.
        tried: what else the client may have done, and the distance at which it stands, nearest first.
    """

    verdict: TruthVerdict
    distance: float
    allowed: float
    cosine: float
    blindness: float
    draws: int
    tried: Sequence[tuple[str, float]] = ()

    @property
    def likely(self) -> list[str]:
        """What else the client may have done that reproduces the update, nearest first."""
        return [what for what, distance in self.tried if distance <= self.allowed]

    def lines(self) -> list[str]:
        """Return what is to be said, a sentence or two a line."""
        against = f"{self.draws} draws of its noise" if self.draws > 1 else "their own update"
        if self.verdict == "reproduced":
            return [f"the truth reproduces the captured update: relative distance {self.distance:.2g}"]
        if self.verdict == "hidden":
            return [
                "whether the truth reproduces the captured update cannot be told: rounding or noise, which "
                f"several steps multiply, hides {min(self.blindness, 1):.0%} of it"
            ]
        said = [
            f"the truth does not reproduce the captured update: {against} differ{'s' * (self.draws == 1)} "
            f"from it by {self.distance:.2g} of its norm, where at most {self.allowed:.2g} is allowed"
        ]
        if self.likely:
            return [*said, f"likely: {self.likely[0]}, which reproduces it ({self.tried[0][1]:.2g})"]
        nearest = f"; the nearest is {self.tried[0][0]} ({self.tried[0][1]:.2g})" if self.tried else ""
        return [
            *said,
            f"none of {len(self.tried)} usual suspects reproduces it{nearest}: likely these are "
            "not the client's images, or its weights, loss, defense or training were others",
        ]

    def to_dict(self) -> dict[str, object]:
        """Return what `result.json` says of it."""
        return {
            "verdict": self.verdict,
            "distance": self.distance,
            "allowed": self.allowed,
            "cosine_distance": 1 - self.cosine,
            "hidden_share": self.blindness,
            "draws": self.draws,
            "likely": self.likely,
            "tried": [{"what": what, "distance": distance} for what, distance in self.tried],
            "said": self.lines(),
        }


def check_truth(
    victim: nn.Module,
    images: Float[Tensor, "b c h w"],
    labels: Int[Tensor, " b"],
    captured: Gradients,
    *,
    local: LocalTraining | None = None,
    defense: str | Defense = "none",
    loss: str | Loss = "cross-entropy",
    rounding: float = SINGLE,
    rate_known: bool = True,
    seed: int = 0,
    round: int = 0,  # noqa: A002
    rounds: int = 10_000,
) -> TruthCheck:
    """Simulate a client's update from its images and say whether it is the captured one.

    Where it is not, the usual suspects are tried, one at a time: how pixels are scaled and normalized, the
    mode, the loss, local steps and their order, and the learning rate that fits best, alone and with those
    that come nearest in direction. A defense's or a victim's noise is another at every draw: there the
    captured update's distance to several draws is set beside the distances among these.

    Args:
        victim: the model before the update, in the mode that the client is said to have.
        images: the client's batch, in the order of its steps.
        labels: its classes.
        captured: the update, as `ggl.captured_update` gives it.
        local: the client's local steps.
        defense: what it did to its update.
        loss: of the client, as `ggl.load_loss` reads it.
        rounding: the spacing of numbers in the files, relative to 1: `Captured.rounding`. What it takes from
            an update is known where `local` says the learning rate; one step is `LocalTraining(1, rate)`.
        rate_known: False leaves the learning rate to be fitted, where it was estimated only.
        seed: of what is drawn.
        round: rounds of training before this one, for defenses that change over it.
        rounds: of training in all.

    Raises:
        InputError: shapes, labels or parameter names that do not fit.
        GradientError: the images' own update is zero or not finite.

    Examples:
        >>> data = ggl.load_dataset("fashion-mnist-heldout")
        >>> images, labels = data.images[:2], data.labels[:2]
        >>> victim = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32)
        >>> captured = ggl.GradientOracle(victim).observe(images, labels)
        >>> ggl.check_truth(victim, images, labels, captured).lines()[0]
        'the truth reproduces the captured update: relative distance 0'
    """
    known = load_defense(defense)
    model = known.wrap(victim, seed)
    client = SimulatedClient(model, images, labels, local, load_loss(loss), known, round, rounds, seed)
    check_target(captured, {name: p for name, p in model.named_parameters() if p.requires_grad})
    observed = Observed.of(captured, client, rounding)
    if not rate_known:
        client = observed.fitted(client)
    own = client.updates()
    distance = observed.distance(own)
    allowed = observed.allowed(client, own[0], rounding)
    blindness = max(observed.blindness(own), allowed)
    verdict: TruthVerdict = "hidden" if blindness > BLIND else "reproduced"
    tried: list[tuple[str, float]] = []
    if distance > allowed:
        verdict, tried = "doubtful", _tried(observed, client, rate_known)
    return TruthCheck(verdict, distance, allowed, observed.cosine(own), blindness, len(own), tried)


def worst_check(audit: AuditSetting, defenses: Sequence[Defense]) -> TruthCheck | None:
    """Return the check of the first captured client that is in doubt, else of the furthest; None without any.

    Of several defenses the one that comes nearest is taken to be the client's.
    """
    if audit.clients.captured is None:
        return None
    found = []
    for (images, labels), update in zip(audit.clients.batches(), audit.clients.captured, strict=True):
        checks = [
            check_truth(
                audit.victim,
                images,
                labels,
                update,
                local=audit.oracle.local,
                defense=defense,
                loss=audit.oracle.loss,
                seed=audit.attack.seed,
                round=audit.clients.round,
                rounds=audit.clients.rounds,
            )
            for defense in defenses
        ]
        found.append(min(checks, key=_doubt))
        if found[-1].verdict == "doubtful":
            break
    return max(found, key=_doubt)


def _doubt(check: TruthCheck) -> tuple[bool, float]:
    return check.verdict == "doubtful", check.distance


def _tried(observed: Observed, client: SimulatedClient, rate_known: bool) -> list[tuple[str, float]]:
    """Return what the usual suspects come to, nearest first; with fitted rates where none reproduces."""
    found = list(suspects(client))
    if not rate_known:
        return _distances(observed, found, observed.fitted)
    tried = _distances(observed, found, lambda suspect: suspect)
    if tried and tried[0][1] <= ALLOWED:
        return tried
    found.sort(key=lambda suspect: -_direction(observed, suspect[1]))
    fitted = [(what, observed.fitted(suspect)) for what, suspect in [("", client), *found[:FITTED]]]
    rates = [(_at_rate(what, suspect), suspect) for what, suspect in fitted]
    return sorted([*_distances(observed, rates, lambda suspect: suspect), *tried], key=_rounded)


def _rounded(entry: tuple[str, float]) -> float:
    """Return a distance that puts what reproduces an update alike in the order in which it was tried."""
    return max(entry[1], ALLOWED)


def _distances(
    observed: Observed, tried: Sequence[Suspect], trained: Callable[[SimulatedClient], SimulatedClient]
) -> list[tuple[str, float]]:
    """Return the distances of those suspects that can train so, nearest first."""
    distances = []
    for what, suspect in tried:
        with contextlib.suppress(*UNABLE):
            distances.append((what, observed.distance(trained(suspect).updates())))
    return sorted(distances, key=_rounded)


def _direction(observed: Observed, client: SimulatedClient) -> float:
    """Return the cosine of a client's update at a rate so small that it is the first-order one."""
    with contextlib.suppress(*UNABLE):
        return observed.cosine([replace(client, factor=SMALL).update()])
    return -1.0


def _at_rate(what: str, client: SimulatedClient) -> str:
    """Return in words what a client did and how fast it learned."""
    rate = f"a learning rate {client.factor:.4g} times the stated one"
    if client.local is not None:
        rate += f", {client.local.learning_rate * client.factor:.4g}"
    batch = len(client.images) if client.local is None else len(client.local.rows(0, len(client.images)))
    if batch > 1 and abs(client.factor / batch - 1) < ALLOWED:
        rate += " (the minibatch's size: a loss that is summed, not averaged, does the same)"
    return f"{what}, and {rate}" if what else rate
