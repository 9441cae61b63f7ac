"""The cells of an audit: every defense, attacker and strategy on the same clients."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ggl.attacks.analytic import find_first_linear, first_linear_fits
from ggl.attacks.course import SearchResult
from ggl.attacks.jobs import inversion_jobs, search_jobs
from ggl.attacks.label_sources import infer_client_labels
from ggl.attacks.objectives import exact_oracle
from ggl.attacks.settings import AUTO, AttackSettings
from ggl.attacks.strategy_choice import chosen_strategy
from ggl.attacks.target import Target
from ggl.attacks.workplace import Begun
from ggl.audits.allowances import cell_allowance
from ggl.audits.attackers import ANALYTIC, attackers_asked, kinds_of_attackers
from ggl.audits.clients import KINDS
from ggl.audits.findings import AuditCell
from ggl.audits.scoring import aligned, label_accuracies, matches, scored
from ggl.audits.setting import AuditSetting
from ggl.defenses import Defense
from ggl.gradients import GradientOracle, Gradients
from ggl.measures.leakage import Scores

__all__ = ["CLOSED_FORM", "BegunCell", "Met", "begin_ceiling", "cells_of", "invert_private", "meet"]

SharedByKind: TypeAlias = Mapping[str, Sequence[Gradients]]
"""What clients of each of `KINDS` share, every kind's in the order of the clients."""

CLOSED_FORM = "closed form"
"""Stands in an analytic cell for the strategy: nothing is searched."""


@dataclass(frozen=True)
class Met:
    """What attackers of one defense meet.

    Attributes:
        oracle: of the victim that the defense's clients train.
        shared: what they share.
        layer: the victim's linear layer that reads the image, if it has one.
    """

    defense: Defense
    oracle: GradientOracle
    shared: SharedByKind
    layer: str | None


def meet(audit: AuditSetting, defense: Defense) -> Met:
    """Return what attackers of a defense meet."""
    oracle = audit.wrapped(defense)
    shared = {kind: audit.clients.shared(defense, oracle, kind) for kind in KINDS}
    return Met(defense, oracle, shared, find_first_linear(oracle.model, audit.attack.prior.image_shape))


def invert_private(audit: AuditSetting) -> Callable[[], Float[Tensor, "n c h w"]]:
    """Begin the ceiling, the prior's best image of each private one; return what waits for it."""
    known, begun = audit.known_ceiling, begin_ceiling(audit)

    def images() -> Float[Tensor, "n c h w"]:
        results = [] if begun is None else begun.results()
        return torch.cat([result.images for result in results]) if known is None else known

    return images


def begin_ceiling(audit: AuditSetting) -> Begun | None:
    """Begin the inversions of the ceiling; None where it is known already."""
    if audit.known_ceiling is not None:
        return None
    return audit.place.begin(
        inversion_jobs(
            "ceiling",
            audit.clients.images,
            audit.clients.labels,
            prior=audit.attack.prior,
            budget=audit.ceiling_budget,
            seed=audit.attack.seed,
            device=audit.oracle.device,
            checkpoints=audit.checkpoints,
        )
    )


def cells_of(
    audit: AuditSetting,
    met: Met,
    strategies: Sequence[str],
    attackers: Sequence[str],
    passive: Mapping[str, Scores],
) -> Iterator["BegunCell"]:
    """Begin to attack every kind of shared gradient by every attacker and strategy."""
    defense, oracle, shared, layer = met.defense, met.oracle, met.shared, met.layer
    prior = audit.attack.prior
    asked = attackers_asked(defense, attackers, solvable=layer is not None and audit.solvable)
    searching = [attacker for attacker in asked if attacker != ANALYTIC]
    for strategy in strategies:
        settings = replace(audit.searching(strategy), defense=defense)
        comparing = oracle if settings.prior is prior else exact_oracle(oracle)
        distance = settings.distance
        kinds = kinds_of_attackers(defense, oracle, searching, shared["private"], distance)
        for attacker, others in kinds.items():
            told, started = replace(settings, attacker=attacker), time.monotonic()
            view = defense.view(shared["private"][0], attacker, comparing.model)
            statistics = audit.clients.statistics is not False
            chosen = chosen_strategy(told, comparing, view, audit.clients.batch_size, statistics=statistics)
            told = replace(told, strategy=chosen)
            name = told.strategy if strategy == AUTO else strategy
            # Scored first, which has the backend chosen here, and any warning of it said once.
            match = matches(comparing, told, audit.clients.batches(), shared["private"])
            passes = defense.trial(attacker).draws if oracle.is_sampled else 1
            begun = _begun(audit, comparing, name, told, shared)
            seconds = time.monotonic() - started
            yield BegunCell(
                audit, comparing, name, told, shared, passive, match, seconds, begun, passes, others
            )
    if ANALYTIC in asked and layer is not None:
        settings, started = replace(audit.attack, defense=defense, attacker=ANALYTIC), time.monotonic()
        results = _solve(audit, oracle, settings, layer, shared)
        match = matches(oracle, settings, audit.clients.batches(), shared["private"])
        seconds = time.monotonic() - started
        yield BegunCell(audit, oracle, CLOSED_FORM, settings, shared, passive, match, seconds, results)


def _begun(
    audit: AuditSetting,
    oracle: GradientOracle,
    strategy: str,
    settings: AttackSettings,
    shared: SharedByKind,
) -> Begun:
    """Begin to attack gradients of every kind; the i-th of each has one seed."""
    labels, numbers = audit.clients.batch_labels(), audit.clients.numbers
    title = f"{audit.stage}{settings.defense.name}, {settings.attacker}, {strategy}"
    targets = [
        Target(f"image {number}", g, batch, seen)
        for kind, of_kind in shared.items()
        for number, g, batch, seen in zip(
            numbers, of_kind, labels, audit.clients.observed(oracle, kind), strict=True
        )
    ]
    return audit.place.begin(search_jobs(title, oracle, targets, settings, audit.checkpoints))


def _solve(
    audit: AuditSetting, oracle: GradientOracle, settings: AttackSettings, layer: str, shared: SharedByKind
) -> list[SearchResult]:
    """Solve the first linear layer's gradient for the image; of several fits the best match counts."""
    defense, prior = settings.defense, settings.prior
    trial = defense.trial("adaptive")
    results = []
    for of_kind in shared.values():
        for g, true in zip(of_kind, audit.clients.batch_labels(), strict=True):
            read = infer_client_labels(oracle, g, 1, prior) if settings.label_rule == "inferred" else None
            label = true if read is None else read
            images = first_linear_fits(g, layer, prior.image_shape)
            view = defense.view(g, "adaptive", oracle.model)
            losses = oracle.score(images, label, view, settings.distance, trial).nan_to_num(torch.inf)
            best, loss = images[losses.argmin()][None].cpu(), float(losses.min())
            latents = torch.full((1, prior.latent_dim), torch.nan)
            history = [(len(images), loss)]
            results.append(SearchResult(best, latents, label, loss, history, len(images), 0))
    return results


@dataclass(frozen=True)
class BegunCell:
    """A cell whose searches have been begun, or solved.

    Attributes:
        match: of the private images themselves, as of `matches`.
        seconds: that its beginning took.
        searches: the searches of every kind's gradients, in their order, or what solving these gave.
        passes: of an evaluation.
        alike: other attackers who compare the same and try alike.
    """

    audit: AuditSetting
    oracle: GradientOracle
    strategy: str
    settings: AttackSettings
    shared: SharedByKind
    passive: Mapping[str, Scores]
    match: NDArray[np.float64]
    seconds: float
    searches: Begun | Sequence[SearchResult]
    passes: int = 1
    alike: Sequence[str] = ()

    def __call__(self) -> AuditCell:
        """Wait for every kind's searches, score what they found, and return the cell."""
        if isinstance(self.searches, Begun):
            results = self.searches.results()
            return self._scored(results, self.searches.seconds)
        return self._scored(self.searches, 0.0)

    def _scored(self, results: Sequence[SearchResult], seconds: float) -> AuditCell:
        """Score what came of every kind's gradients, `results` in their order."""
        started, audit, settings, private = (
            time.monotonic(),
            self.audit,
            self.settings,
            self.shared["private"],
        )
        n = len(audit.clients)
        groups = {kind: results[k * n : (k + 1) * n] for k, kind in enumerate(self.shared)}
        images = {
            kind: aligned(audit, torch.cat([r.images for r in group])) for kind, group in groups.items()
        }
        scores = {kind: scored(audit, reconstructions) for kind, reconstructions in images.items()}
        found = groups["private"]
        return AuditCell(
            defense=settings.defense.name,
            strategy=self.strategy,
            attacker=settings.attacker,
            attack=scores.pop("private"),
            controls={**scores, **self.passive},
            images=images,
            label_accuracy=label_accuracies(audit, self.oracle, private, found, settings.label_rule),
            matches={
                "private": self.match,
                "attack": matches(self.oracle, settings, [(r.images, r.labels) for r in found], private),
            },
            results=groups,
            seconds=self.seconds + seconds + time.monotonic() - started,
            passes=self.passes,
            alike=self.alike,
            guarantee=cell_allowance(audit, settings.defense, private[0]),
            distance=None if settings.distance == audit.attack.distance else settings.distance,
        )
