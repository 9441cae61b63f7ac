"""What a search minimizes: the match of a gradient, or of an image."""

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ggl.attacks.settings import AttackSettings
from ggl.base.errors import InputError
from ggl.gradients import GradientOracle, LocalTraining, Trial, View
from ggl.gradients.batch_statistics import BatchStatistics, StatisticsMatch, normalization_layers
from ggl.gradients.residuals import GradientResiduals
from ggl.gradients.sampled import sampled_layers

__all__ = [
    "GradientMatch",
    "ImageMatch",
    "Objective",
    "ResidualObjective",
    "WithStatistics",
    "check_statistics",
    "exact_oracle",
    "gradient_objective",
]


@runtime_checkable
class Objective(Protocol):
    """What a search minimizes."""

    def __call__(
        self, images: Tensor, labels: Tensor, chosen: Sequence[int], counts: Sequence[int]
    ) -> Tensor:
        """Return losses (n,) of images (n, b, c, h, w) with labels (n, b), or distributions (n, b, k).

        counts[i] of them in a row belong to search chosen[i].
        """
        ...


@runtime_checkable
class ResidualObjective(Objective, Protocol):
    """An objective that is a sum of squares, and gives what is squared.

    Attributes:
        targets: (k, m), of each search.
        unit: whether directions are compared, as `ggl.optimizers.residuals.Residuals` has it.
        groups: coordinates of each group, as it has them.
    """

    targets: Tensor
    unit: bool
    groups: Sequence[int]

    def measure(
        self, images: Tensor, labels: Tensor, chosen: Sequence[int], counts: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Return losses (n,) as a call does, and values (n, parts, m) that add up to what is compared."""
        ...


class GradientMatch:
    """Objective of gradient inversion: the distance of a candidate's gradient to a target's view.

    Where a candidate holds a copy of every image for each of a client's epochs, these are tied together:
    λ / E² Σ mean (ḡ_e - ḡ_e')² is added, ḡ_e the mean image of epoch e, which no order within it changes
    (Dimitrov et al., arXiv 2206.12395: the distance of an order-invariant function of every two epochs).
    """

    def __init__(
        self,
        oracle: GradientOracle,
        views: Sequence[View],
        distance: str,
        trial: Trial | None = None,
        *,
        copies: int = 1,
    ) -> None:
        self.copies = copies
        self.tie = 0.0 if oracle.local is None else oracle.local.tie
        self.oracle, self.distance, self.trial = oracle, distance, trial or Trial()
        self.views = [oracle.prepare(view) for view in views]

    def __call__(
        self, images: Tensor, labels: Tensor, chosen: Sequence[int], counts: Sequence[int]
    ) -> Float[Tensor, " n"]:
        """Return the losses (n,) of images (n, b, c, h, w)."""
        views = [self.views[k] for k in chosen]
        losses = self.oracle.score_groups(images, labels, views, counts, self.distance, self.trial)
        return self._tied(losses, images)

    def _tied(self, losses: Float[Tensor, " n"], images: Float[Tensor, "n b c h w"]) -> Float[Tensor, " n"]:
        """Return the losses with the penalty on copies of one batch that differ."""
        if self.copies == 1:
            return losses
        means: Tensor = images.unflatten(1, (self.copies, -1)).mean(2).flatten(2)
        return losses + (2 * self.tie * means.var(1, unbiased=False).mean(-1)).to(losses)

    @cached_property
    def _residuals(self) -> GradientResiduals:
        return GradientResiduals(self.oracle, self.views, self.distance, self.trial)

    @property
    def targets(self) -> Float[Tensor, "k m"]:
        """The sketches of what the views compare of their targets."""
        return self._residuals.targets

    @property
    def unit(self) -> bool:
        """Whether the distance is of unit vectors."""
        return self._residuals.unit

    @property
    def groups(self) -> Sequence[int]:
        """How many numbers of a sketch are each parameter's."""
        return self._residuals.sketch.groups

    def measure(
        self, images: Tensor, labels: Tensor, chosen: Sequence[int], counts: Sequence[int]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n parts m"]]:
        """Return the losses, and the sketches of every image's share or of the batch."""
        losses, values = self._residuals.measure(images, labels, chosen, counts)
        return self._tied(losses, images), values


class WithStatistics:
    """Objective of gradient inversion, and `weight` times the distance of a batch's statistics, R_BN.

    It gives no residuals.
    """

    def __init__(self, match: GradientMatch, statistics: Sequence[StatisticsMatch], weight: float) -> None:
        self.match, self.statistics, self.weight = match, statistics, weight

    def __call__(
        self, images: Tensor, labels: Tensor, chosen: Sequence[int], counts: Sequence[int]
    ) -> Float[Tensor, " n"]:
        """Return the losses (n,) of images (n, b, c, h, w)."""
        oracle = self.match.oracle
        parts = images.to(oracle.device, oracle.dtype).split(list(counts))
        terms = [self._term(self.statistics[k], part) for k, part in zip(chosen, parts, strict=True)]
        return self.match(images, labels, chosen, counts) + self.weight * torch.cat(terms)

    def _term(self, statistics: StatisticsMatch, images: Tensor) -> Tensor:
        return self.match.oracle.chunks.map(
            len(images), images.shape[1], lambda rows: statistics(images[rows])
        )


class ImageMatch:
    """Objective of image inversion: the mean squared error to a target's images (k, b, c, h, w)."""

    unit = False
    groups = ()

    def __init__(self, images: Float[Tensor, "k b c h w"]) -> None:
        self.images, self.targets = images, images.flatten(1)

    def measure(
        self, images: Tensor, labels: Tensor, chosen: Sequence[int], counts: Sequence[int]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n parts m"]]:
        """Return the losses, and the pixels of the batch as one part."""
        return self(images, labels, chosen, counts), images.flatten(1)[:, None]

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,  # noqa: ARG002
        chosen: Sequence[int],
        counts: Sequence[int],
    ) -> Float[Tensor, " n"]:
        """Return the losses (n,) of images (n, b, c, h, w)."""
        owner = torch.tensor(list(chosen)).repeat_interleave(torch.tensor(list(counts)))
        wanted = self.images[owner.to(self.images.device, non_blocking=True)]
        return (images - wanted.to(images)).square().flatten(1).mean(1)


def gradient_objective(
    oracle: GradientOracle,
    views: Sequence[View],
    statistics: Sequence[BatchStatistics | None],
    settings: AttackSettings,
    copies: int = 1,
) -> GradientMatch | WithStatistics:
    """Return the match of views, and of the batch statistics observed beside each where there are any.

    Raises:
        InputError: some have statistics and some have none, or the victim's cannot be matched.
    """
    trial = settings.defense.trial(settings.attacker)
    match = GradientMatch(oracle, views, settings.distance, trial, copies=copies)
    observed = [one for one in statistics if one is not None]
    if not observed:
        return match
    if len(observed) < len(statistics):
        raise InputError("expected the batch statistics of every target, or of none")
    check_statistics(oracle.model, oracle.local)
    matches = [StatisticsMatch(oracle.model, one) for one in observed]
    return WithStatistics(match, matches, settings.statistics_weight)


def check_statistics(model: nn.Module, local: LocalTraining | None) -> None:
    """Raise `InputError` unless a client's batch statistics can be observed, and matched."""
    if not any(layer.training for layer in normalization_layers(model).values()):
        raise InputError(
            "batch statistics: expected a victim in train mode with batch normalization that keeps running "
            f"statistics, found {type(model).__name__} without; use --victim-mode train, or leave them out"
        )
    if sampled_layers(model) or (local is not None and not local.is_gradient):
        raise InputError(
            "batch statistics: expected one local step of a victim that draws no noise, found several steps, "
            "or a victim that does: leave them out"
        )


def exact_oracle(oracle: GradientOracle) -> GradientOracle:
    """Return an oracle whose distances have no cancellation, for contrasts, which may reach zero.

    The layerwise backend reads ‖g - t‖² off ‖g‖², ⟨g, t⟩ and ‖t‖², to single precision of ‖g‖².
    """
    return GradientOracle(
        oracle.model, loss=oracle.loss, backend="vmap", precision=oracle.precision, local=oracle.local
    )
