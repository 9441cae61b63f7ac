"""What reconstructions and matches are worth."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from ggl.attacks.course import SearchResult
from ggl.attacks.label_inference import label_accuracy
from ggl.attacks.label_sources import infer_client_labels
from ggl.attacks.settings import AttackSettings
from ggl.audits.attackers import ANALYTIC
from ggl.audits.clients import rows_of
from ggl.audits.controls import class_means, prior_samples
from ggl.audits.setting import AuditSetting
from ggl.base.errors import InputError, users_code
from ggl.base.random import global_stream, stream
from ggl.gradients import GradientOracle, Gradients
from ggl.measures.leakage import Measure, Scores, score
from ggl.measures.metrics import feature_distance, match
from ggl.victims import Victim

__all__ = ["aligned", "features_distance", "label_accuracies", "matches", "passive_controls", "scored"]

PRIOR_DRAWS = 8
"""Samples of the prior whose errors are averaged for each private image."""


def scored(audit: AuditSetting, reconstructions: Float[Tensor, "n c h w"]) -> Scores:
    """Score reconstructions against the private images that they stand beside."""
    clients = audit.clients
    return score(reconstructions, clients.images, audit.decoys.images, audit.errors, clients.batch_size)


def aligned(audit: AuditSetting, reconstructions: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """Return every client's reconstructions in the order in which they are nearest to its images."""
    size = audit.clients.batch_size
    if size == 1:
        return reconstructions
    pairs = zip(reconstructions.split(size), audit.clients.images.split(size), strict=True)
    return torch.cat([found[match(found, private)] for found, private in pairs])


def passive_controls(audit: AuditSetting) -> dict[str, Scores]:
    """Score what needs no gradient: random samples of the prior, and the decoys' mean."""
    random = stream(audit.attack.seed, "prior control")
    rows = rows_of(audit.clients.numbers, audit.clients.batch_size)
    draws = []
    for _ in range(PRIOR_DRAWS):
        drawn = prior_samples(audit.attack.prior, audit.every_label, random, audit.oracle.device)
        draws.append(scored(audit, aligned(audit, drawn[rows])))
    mean = {name: np.mean([draw.values[name] for draw in draws], axis=0) for name in draws[0].values}
    means = class_means(audit.decoys.images)
    return {"prior": replace(draws[0], values=mean), "class mean": scored(audit, aligned(audit, means))}


@torch.no_grad()
def matches(
    oracle: GradientOracle,
    settings: AttackSettings,
    batches: Sequence[tuple[Tensor, Tensor]],
    shared: Sequence[Gradients],
) -> NDArray[np.float64]:
    """Return how far gradients of batches, images and labels, are from those shared, (clients,).

    They are compared as an attacker does.
    """
    defense = settings.defense
    attacker = "adaptive" if settings.attacker == ANALYTIC else settings.attacker
    trial = defense.trial(attacker)
    views = [defense.view(g, attacker, oracle.model) for g in shared]
    rows = zip(batches, views, strict=True)
    found = [oracle.score(x[None], y, view, settings.distance, trial) for (x, y), view in rows]
    return torch.cat(found).double().cpu().numpy()


def label_accuracies(
    audit: AuditSetting,
    oracle: GradientOracle,
    shared: Sequence[Gradients],
    results: Sequence[SearchResult],
    label_rule: str,
) -> list[float]:
    """Return the share of each client's labels that a search found, or else that its gradient tells.

    NaN where no method that is here reads labels under this loss.
    """
    if label_rule != "known":
        found: list[Tensor | None] = [result.labels for result in results]
    else:
        size = audit.clients.batch_size
        try:
            found = [infer_client_labels(oracle, g, size, audit.attack.prior) for g in shared]
        except InputError:
            return [math.nan] * len(shared)
    pairs = zip(found, audit.clients.batch_labels(), strict=True)
    return [0.0 if labels is None else label_accuracy(labels, true) for labels, true in pairs]


def features_distance(victim: nn.Module, device: torch.device) -> Measure | None:
    """Return the distance between the penultimate features of a victim of `ggl.victims.Victim`.

    Another's attribute of that name may be anything, such as the convolutions of an AlexNet.
    """
    if not isinstance(victim, Victim):
        return None
    features = copy.deepcopy(victim).eval().features

    def distance(a: Tensor, b: Tensor) -> Tensor:
        with global_stream(0), users_code("the victim's features"):
            return feature_distance(features, a.to(device), b.to(device)).cpu()

    return distance
