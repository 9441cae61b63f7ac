"""The cells of an audit: every defense, attacker and strategy on the same clients."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ggl.attacks.analytic import find_first_linear, first_linear_fits
from ggl.attacks.inversion import Target, attack_many, invert
from ggl.attacks.label_inference import label_accuracy
from ggl.attacks.label_sources import infer_client_labels
from ggl.attacks.pixel_attacks import exact_oracle, find_contrast
from ggl.attacks.search import SearchResult
from ggl.attacks.stages import Stage, checkpoint_of, progress_of
from ggl.audits.attackers import ANALYTIC, attackers_asked, distinct_attackers
from ggl.audits.clients import KINDS, Clients, rows_of
from ggl.audits.controls import Decoys, class_means, prior_samples
from ggl.audits.findings import Cell
from ggl.base.random import stream
from ggl.defenses import Defense
from ggl.generators import Prior, load_prior
from ggl.gradients import GradientOracle, Gradients
from ggl.measures.leakage import Measure, Scores, score
from ggl.measures.metrics import match

__all__ = [
    "CLOSED_FORM",
    "AuditSetting",
]

PRIOR_DRAWS = 8
"""Samples of the prior whose errors are averaged for each private image."""

CLOSED_FORM = "closed form"
"""Stands in an analytic cell for the strategy: nothing is searched."""


@dataclass(frozen=True)
class Method:
    """How one strategy of an audit searches: over the audit's prior, or, as a contrast, over pixels."""

    strategy: str
    prior: Prior
    distance: str
    latents: str
    label_rule: str


@dataclass(frozen=True)
class AuditSetting:
    """What every cell of an audit shares: the clients, their controls, the attacker's means.

    Attributes:
        every_label: of the images of all clients, those that are not attacked here included.
    """

    oracle: GradientOracle
    victim: nn.Module
    prior: Prior
    clients: Clients
    every_label: Tensor
    decoys: Decoys
    errors: Mapping[str, Measure]
    budget: int
    ceiling_budget: int
    seed: int
    distance: str
    latents: str
    label_rule: str
    checkpoints: Path | None
    progress: Stage | None
    backend: str
    known_ceiling: Tensor | None

    def score(self, reconstructions: Tensor) -> Scores:
        """Score reconstructions (n, c, h, w) against the private images that they stand beside."""
        clients = self.clients
        return score(reconstructions, clients.images, self.decoys.images, self.errors, clients.batch_size)

    def aligned(self, reconstructions: Tensor) -> Tensor:
        """Return every client's reconstructions in the order in which they are nearest to its images."""
        size = self.clients.batch_size
        if size == 1:
            return reconstructions
        pairs = zip(reconstructions.split(size), self.clients.images.split(size), strict=True)
        return torch.cat([found[match(found, private)] for found, private in pairs])

    def method(self, strategy: str) -> Method:
        """Return how a strategy, or a contrast by its name, searches."""
        contrast = find_contrast(strategy)
        if contrast is None:
            return Method(strategy, self.prior, self.distance, self.latents, self.label_rule)
        pixels = load_prior("pixels:" + "x".join(map(str, self.prior.image_shape)))
        rule = contrast.labels if contrast.labels != "known" else self.label_rule
        return Method(contrast.strategy, pixels, contrast.distance, contrast.latents, rule)

    def wrapped(self, defense: Defense) -> GradientOracle:
        """Return the oracle of the victim that clients of a defense train."""
        model = defense.wrap(self.victim, self.seed)
        if model is self.victim:
            return self.oracle
        return GradientOracle(
            model.to(self.oracle.device),
            backend=self.backend,
            precision=self.oracle.precision,
            local=self.oracle.local,
        )

    def ceiling(self) -> Tensor:
        """Return the prior's best image of each private one."""
        if self.known_ceiling is not None:
            return self.known_ceiling
        results = invert(
            self.clients.images,
            self.clients.labels,
            prior=self.prior,
            budget=self.ceiling_budget,
            seed=self.seed,
            device=self.oracle.device,
            checkpoint=checkpoint_of(self.checkpoints, "ceiling"),
            progress=progress_of(self.progress, "ceiling"),
        )
        return torch.cat([result.images for result in results])

    def passive_controls(self) -> dict[str, Scores]:
        """Score what needs no gradient: random samples of the prior, and the decoys' mean."""
        random = stream(self.seed, "prior control")
        rows = rows_of(self.clients.numbers, self.clients.batch_size)
        draws = [
            self.score(
                self.aligned(prior_samples(self.prior, self.every_label, random, self.oracle.device)[rows])
            )
            for _ in range(PRIOR_DRAWS)
        ]
        mean = {name: np.mean([draw.values[name] for draw in draws], axis=0) for name in draws[0].values}
        prior = replace(draws[0], values=mean)
        return {"prior": prior, "class mean": self.score(self.aligned(class_means(self.decoys.images)))}

    def attack(
        self,
        defense: Defense,
        oracle: GradientOracle,
        strategy: str,
        attacker: str,
        shared: Sequence[Gradients],
    ) -> list[SearchResult]:
        """Attack shared gradients, n of each kind in a row; the i-th of every kind has one seed."""
        method, labels = self.method(strategy), self.clients.batch_labels()
        n = len(labels)
        title = f"{defense.name}, {attacker}, {strategy}"
        return attack_many(
            oracle,
            [Target(f"image {self.clients.numbers[i % n]}", g, labels[i % n]) for i, g in enumerate(shared)],
            prior=method.prior,
            strategy=method.strategy,
            defense=defense,
            attacker=attacker,
            distance=method.distance,
            latents=method.latents,
            label_rule=method.label_rule,
            budget=self.budget,
            seed=self.seed,
            checkpoint=checkpoint_of(self.checkpoints, title),
            progress=progress_of(self.progress, title),
        )

    def solve(
        self, defense: Defense, oracle: GradientOracle, layer: str, shared: Sequence[Gradients]
    ) -> list[SearchResult]:
        """Solve the first linear layer's gradient for the image; of several fits the best match counts."""
        trial = defense.trial("adaptive")
        results = []
        for i, g in enumerate(shared):
            images = first_linear_fits(g, layer, self.prior.image_shape)
            label = self.clients.labels[i % len(self.clients)][None]
            view = defense.view(g, "adaptive", oracle.model)
            losses = oracle.score(images, label, view, self.distance, trial).nan_to_num(torch.inf)
            best, loss = images[losses.argmin()][None].cpu(), float(losses.min())
            latents = torch.full((1, self.prior.latent_dim), torch.nan)
            history = [(len(images), loss)]
            results.append(SearchResult(best, latents, label, loss, history, len(images), 0))
        return results

    def cells(
        self,
        defense: Defense,
        strategies: Sequence[str],
        attackers: Sequence[str],
        passive: Mapping[str, Scores],
    ) -> Iterator[Cell]:
        """Attack every kind of shared gradient by every attacker and strategy; score what comes out."""
        oracle = self.wrapped(defense)
        shared = {kind: self.clients.shared(defense, oracle, kind) for kind in KINDS}
        every = [g for group in shared.values() for g in group]
        layer = find_first_linear(oracle.model, self.prior.image_shape)
        asked = attackers_asked(defense, attackers, solvable=layer is not None and self.solvable)
        searching = [attacker for attacker in asked if attacker != ANALYTIC]
        for strategy in strategies:
            method = self.method(strategy)
            distance = method.distance
            comparing = oracle if method.prior is self.prior else exact_oracle(oracle)
            for attacker in distinct_attackers(defense, oracle, searching, shared["private"], distance):
                started = time.monotonic()
                results = self.attack(defense, comparing, strategy, attacker, every)
                cell = self._cell(defense, comparing, strategy, attacker, shared, results, passive, started)
                yield replace(cell, passes=defense.trial(attacker).draws if oracle.is_sampled else 1)
        if ANALYTIC in asked and layer is not None:
            started = time.monotonic()
            results = self.solve(defense, oracle, layer, every)
            yield self._cell(defense, oracle, CLOSED_FORM, ANALYTIC, shared, results, passive, started)

    @torch.no_grad()
    def matches(
        self,
        defense: Defense,
        oracle: GradientOracle,
        attacker: str,
        distance: str,
        batches: Sequence[tuple[Tensor, Tensor]],
        shared: Sequence[Gradients],
    ) -> NDArray[np.float64]:
        """Return how far gradients of batches, images and labels, are from those shared, (clients,).

        They are compared as an attacker does.
        """
        attacker = "adaptive" if attacker == ANALYTIC else attacker
        trial = defense.trial(attacker)
        views = [defense.view(g, attacker, oracle.model) for g in shared]
        rows = zip(batches, views, strict=True)
        found = [oracle.score(x[None], y, view, distance, trial) for (x, y), view in rows]
        return torch.cat(found).double().cpu().numpy()

    def _cell(
        self,
        defense: Defense,
        oracle: GradientOracle,
        strategy: str,
        attacker: str,
        shared: Mapping[str, Sequence[Gradients]],
        results: Sequence[SearchResult],
        passive: Mapping[str, Scores],
        started: float,
    ) -> Cell:
        n = len(self.clients)
        groups = {kind: results[k * n : (k + 1) * n] for k, kind in enumerate(shared)}
        images = {kind: self.aligned(torch.cat([r.images for r in group])) for kind, group in groups.items()}
        scores = {kind: self.score(reconstructions) for kind, reconstructions in images.items()}
        method = self.method(strategy)
        found = [(result.images, result.labels) for result in groups["private"]]
        compared = (defense, oracle, attacker, method.distance)
        matches = {
            "private": self.matches(*compared, self.clients.batches(), shared["private"]),
            "attack": self.matches(*compared, found, shared["private"]),
        }
        return Cell(
            defense=defense.name,
            strategy=strategy,
            attacker=attacker,
            attack=scores.pop("private"),
            controls={**scores, **passive},
            images=images,
            label_accuracy=self.label_accuracy(oracle, shared["private"], groups["private"], method),
            matches=matches,
            results=groups,
            seconds=time.monotonic() - started,
            distance=None if method.distance == self.distance else method.distance,
        )

    def label_accuracy(
        self,
        oracle: GradientOracle,
        shared: Sequence[Gradients],
        results: Sequence[SearchResult],
        method: Method,
    ) -> list[float]:
        """Return the share of each client's labels that a search found, or else that its gradient tells."""
        if method.label_rule != "known":
            found: list[Tensor | None] = [result.labels for result in results]
        else:
            size = self.clients.batch_size
            found = [infer_client_labels(oracle, g, size, self.prior) for g in shared]
        pairs = zip(found, self.clients.batch_labels(), strict=True)
        return [0.0 if labels is None else label_accuracy(labels, true) for labels, true in pairs]

    @property
    def solvable(self) -> bool:
        """Whether a shared gradient is one image's own, of one step."""
        return self.clients.batch_size == 1 and (self.oracle.local is None or self.oracle.local.steps == 1)
