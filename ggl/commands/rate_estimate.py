"""The learning rate of a captured update where nobody says it, by samples of the prior."""

from collections.abc import Callable

import torch
from torch import Tensor

from ggl.attacks.label_inference import infer_label
from ggl.audits.controls import prior_samples
from ggl.base.errors import InputError
from ggl.base.random import stream
from ggl.captures.learning_rate import estimate_learning_rate
from ggl.captures.update import Captured
from ggl.generators import Prior
from ggl.gradients import GradientOracle, Gradients, LocalTraining
from ggl.measures.statistics import Interval

__all__ = ["estimated_rate"]

STAND_INS = 40
"""Batches of the prior's images that a learning rate is estimated by."""


def estimated_rate(
    captured: Captured,
    local: Callable[[float], LocalTraining],
    prior: Prior,
    labels: Tensor | None,
    batch: int,
    seed: int,
) -> Interval:
    """Return the learning rate at which samples of the prior change the victim as much as the client did.

    Args:
        captured: the difference of the weights, read at a rate of 1.
        local: the client's local steps at a rate.
        prior: whose samples stand in.
        labels: the batch's (b,), None where they are read off the update of one image.
        batch: how many images.
        seed: of the samples.

    Raises:
        InputError: a batch without labels, or a label that cannot be read off.
    """
    if labels is None and batch > 1:
        raise InputError("--lr estimate: expected the labels of a batch, give --private-labels or --truth")
    if labels is None:
        found = infer_label(captured.gradients)
        if found is None:
            raise InputError(
                "--lr estimate: expected a victim with a linear last layer; give the rate itself"
            )
        labels = torch.tensor([found])
    known = labels
    random, device = stream(seed, "stand-ins"), torch.device("cpu")
    samples = [prior_samples(prior, known, random, device) for _ in range(STAND_INS)]

    def simulate(rate: float) -> list[Gradients]:
        oracle = GradientOracle(captured.victim, backend="sequential", local=local(rate))
        updates = [oracle.gradient(images, known) for images in samples]
        return [{name: rate * g for name, g in update.items()} for update in updates]

    return estimate_learning_rate(captured.gradients, simulate)
