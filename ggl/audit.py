"""The audit: every defense, attacker and strategy on the same images, against the same controls."""

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from ggl.analytic import find_first_linear, first_linear_fits
from ggl.attack import Target, attack_many, invert
from ggl.attackers import ANALYTIC, attackers_asked, check_attackers, distinct_attackers
from ggl.base.errors import InputError
from ggl.base.random import stream, stream_seed
from ggl.controls import Decoys, choose_decoys, class_means, noise_gradient, prior_samples
from ggl.datasets import load_dataset
from ggl.defenses import Client, Defense, load_defense
from ggl.generators import Prior
from ggl.gradients import GradientOracle, Gradients
from ggl.gradients.distance import find_distance
from ggl.gradients.oracle import check_gradient
from ggl.labels import infer_label
from ggl.latents import load_latents
from ggl.leakage import Measure, Scores, measures, score
from ggl.lpips import load_lpips
from ggl.metrics import feature_distance
from ggl.optimizers import load_strategy
from ggl.report import Cell, Report
from ggl.search import Progress, SearchResult, check_budget, fingerprint

__all__ = ["CEILING_BUDGET", "KINDS", "Stage", "audit"]

CEILING_BUDGET = 2000
"""Evaluations that the inversion of each private image may spend: Adam, four starts."""

PRIOR_DRAWS = 8
"""Samples of the prior whose errors are averaged for each private image."""

KINDS = ("private", "sibling", "noise")
"""What is attacked: each private image, another of its class, and a noise gradient of the same norm."""

CLOSED_FORM = "closed form"
"""Stands in an analytic cell for the strategy: nothing is searched."""

Stage: TypeAlias = Callable[[str, int, int, float], None]
"""Called with a stage's title, evaluations done, those planned, and the mean best loss."""


@dataclass(frozen=True)
class _Audit:
    """What every cell shares: the private images, their controls, the attacker's means.

    `numbers` are the images' among all private ones, whose labels are `every_label`. Random streams go by
    them, so that an image meets the same draws whichever others are attacked beside it.
    """

    oracle: GradientOracle
    victim: nn.Module
    prior: Prior
    images: Tensor
    labels: Tensor
    numbers: Sequence[int]
    every_label: Tensor
    decoys: Decoys
    errors: Mapping[str, Measure]
    budget: int
    ceiling_budget: int
    seed: int
    distance: str
    latents: str
    checkpoints: Path | None
    progress: Stage | None
    backend: str
    round: int
    rounds: int
    known_ceiling: Tensor | None

    def score(self, reconstructions: Tensor) -> Scores:
        """Score reconstructions (n, c, h, w) against the private images."""
        return score(reconstructions, self.images, self.decoys.images, self.errors)

    def wrapped(self, defense: Defense) -> GradientOracle:
        """Return the oracle of the victim that clients of a defense train."""
        model = defense.wrap(self.victim, self.seed)
        if model is self.victim:
            return self.oracle
        return GradientOracle(
            model.to(self.oracle.device), backend=self.backend, precision=self.oracle.precision
        )

    def ceiling(self) -> Tensor:
        """Return the prior's best image of each private one."""
        if self.known_ceiling is not None:
            return self.known_ceiling
        results = invert(
            self.images,
            self.labels,
            prior=self.prior,
            budget=self.ceiling_budget,
            seed=self.seed,
            device=self.oracle.device,
            checkpoint=self._checkpoint("ceiling"),
            progress=self._stage("ceiling"),
        )
        return torch.cat([result.images for result in results])

    def passive_controls(self) -> dict[str, Scores]:
        """Score what needs no gradient: random samples of the prior, and the decoys' mean."""
        random = stream(self.seed, "prior control")
        draws = [
            self.score(
                prior_samples(self.prior, self.every_label, random, self.oracle.device)[list(self.numbers)]
            )
            for _ in range(PRIOR_DRAWS)
        ]
        mean = {name: np.mean([draw.values[name] for draw in draws], axis=0) for name in draws[0].values}
        prior = Scores(mean, draws[0].ranks, draws[0].decoys)
        return {"prior": prior, "class mean": self.score(class_means(self.decoys.images))}

    def shared(self, defense: Defense, oracle: GradientOracle, kind: str) -> list[Gradients]:
        """Return what clients of a kind share, one an image."""
        return [
            defense.share(client, stream(self.seed, "client", defense.name, kind, i))
            for i, client in zip(self.numbers, self.clients(oracle, kind), strict=True)
        ]

    def clients(self, oracle: GradientOracle, kind: str) -> list[Client]:
        """Return clients of private images, of their siblings, or of noise gradients.

        The noise ones hold a sibling, and nothing of a private image but its gradient's norm.
        """
        if kind == "noise":
            pairs = zip(self.clients(oracle, "private"), self.clients(oracle, "sibling"), strict=True)
            return [
                sibling.after(noise_gradient(private.gradient(), stream(self.seed, "noise control", i)))
                for i, (private, sibling) in zip(self.numbers, pairs, strict=True)
            ]
        images = self.images if kind == "private" else self.decoys.siblings
        return [
            Client(
                oracle,
                image[None],
                label[None],
                seed=stream_seed(self.seed, "client noise", kind, i),
                round=self.round,
                rounds=self.rounds,
            )
            for i, image, label in zip(self.numbers, images, self.labels, strict=True)
        ]

    def attack(
        self,
        defense: Defense,
        oracle: GradientOracle,
        strategy: str,
        attacker: str,
        shared: Sequence[Gradients],
    ) -> list[SearchResult]:
        """Attack shared gradients, n of each kind in a row; the i-th of every kind has one seed."""
        n = len(self.images)
        title = f"{defense.name}, {attacker}, {strategy}"
        return attack_many(
            oracle,
            [
                Target(f"image {self.numbers[i % n]}", g, self.labels[i % n][None])
                for i, g in enumerate(shared)
            ],
            prior=self.prior,
            strategy=strategy,
            defense=defense,
            attacker=attacker,
            distance=self.distance,
            latents=self.latents,
            budget=self.budget,
            seed=self.seed,
            checkpoint=self._checkpoint(title),
            progress=self._stage(title),
        )

    def solve(
        self, defense: Defense, oracle: GradientOracle, layer: str, shared: Sequence[Gradients]
    ) -> list[SearchResult]:
        """Solve the first linear layer's gradient for the image; of several fits the best match counts."""
        trial = defense.trial("adaptive")
        results = []
        for i, g in enumerate(shared):
            images = first_linear_fits(g, layer, self.prior.image_shape)
            label = self.labels[i % len(self.images)][None]
            view = defense.view(g, "adaptive", oracle.model)
            losses = oracle.score(images, label, view, self.distance, trial).nan_to_num(torch.inf)
            best, loss = images[losses.argmin()][None].cpu(), float(losses.min())
            latents = torch.full((1, self.prior.latent_dim), torch.nan)
            results.append(SearchResult(best, latents, loss, [(len(images), loss)], len(images), 0))
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
        shared = {kind: self.shared(defense, oracle, kind) for kind in KINDS}
        every = [g for group in shared.values() for g in group]
        layer = find_first_linear(oracle.model, self.prior.image_shape)
        asked = attackers_asked(defense, attackers, solvable=layer is not None)
        searching = [attacker for attacker in asked if attacker != ANALYTIC]
        for strategy in strategies:
            for attacker in distinct_attackers(defense, oracle, searching, shared["private"], self.distance):
                started = time.monotonic()
                results = self.attack(defense, oracle, strategy, attacker, every)
                cell = self._cell(defense, oracle, strategy, attacker, shared, results, passive, started)
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
        images: Tensor,
        shared: Sequence[Gradients],
    ) -> NDArray[np.float64]:
        """Return the distances (n,) of images' gradients to those shared, as an attacker compares them."""
        attacker = "adaptive" if attacker == ANALYTIC else attacker
        trial = defense.trial(attacker)
        views = [defense.view(g, attacker, oracle.model) for g in shared]
        rows = zip(images, self.labels, views, strict=True)
        found = [oracle.score(x[None], y[None], view, self.distance, trial) for x, y, view in rows]
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
        n = len(self.images)
        groups = {kind: results[k * n : (k + 1) * n] for k, kind in enumerate(shared)}
        images = {kind: torch.cat([r.images for r in group]) for kind, group in groups.items()}
        scores = {kind: self.score(reconstructions) for kind, reconstructions in images.items()}
        matches = {
            "private": self.matches(defense, oracle, attacker, self.images, shared["private"]),
            "attack": self.matches(defense, oracle, attacker, images["private"], shared["private"]),
        }
        right = [
            infer_label(g) == int(label) for g, label in zip(shared["private"], self.labels, strict=True)
        ]
        return Cell(
            defense=defense.name,
            strategy=strategy,
            attacker=attacker,
            attack=scores.pop("private"),
            controls={**scores, **passive},
            images=images,
            labels_right=right,
            matches=matches,
            results=groups,
            seconds=time.monotonic() - started,
        )

    def _checkpoint(self, title: str) -> Path | None:
        if self.checkpoints is None:
            return None
        return self.checkpoints / f"{fingerprint({'stage': title}, [])[:16]}.safetensors"

    def _stage(self, title: str) -> Progress | None:
        report = self.progress
        if report is None:
            return None
        return lambda done, planned, loss: report(title, done, planned, loss)


def audit(
    victim: nn.Module,
    images: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    *,
    prior: Prior,
    defenses: Sequence[str | Defense] = ("none",),
    strategies: Sequence[str] = ("cma-es",),
    attackers: Sequence[str] = ("adaptive",),
    budget: int = 2000,
    ceiling_budget: int | None = None,
    ceiling: Float[Tensor, "m c h w"] | None = None,
    only: Sequence[int] | None = None,
    seed: int = 0,
    decoys: tuple[Float[Tensor, "k c h w"], Int[Tensor, " k"]] | None = None,
    distance: str = "cosine",
    latents: str | None = None,
    backend: str = "auto",
    precision: str = "float32",
    round: int = 0,  # noqa: A002
    rounds: int = 10_000,
    checkpoints: Path | None = None,
    progress: Stage | None = None,
) -> Report:
    """Measure how much of private images their gradients give away, one image a gradient.

    Every cell attacks the private images, a sibling of each (another image of its class) and a noise
    gradient of the same norm: same seed, same budget, same defense.

    Args:
        victim: the model, on the device and in the mode (train, eval) that the clients have.
        images: private images in [0, 1], of the prior's shape.
        labels: their classes, known to the attacker.
        prior: the attacker's generator.
        defenses: names such as "none", "prune:0.9", "clip:4+noise:0.01".
        strategies: names such as "cma-es", "adam:starts=2".
        attackers: of "naive", "adaptive", "informed" and those that a defense adds; one that a defense
            does not know is "adaptive" to it. "analytic" solves the gradient of a first linear layer for
            the image; "all" is every one that applies. Those that would do the same are one, the first.
        budget: objective evaluations of each search.
        ceiling_budget: objective evaluations, with gradients, of each inversion of a private image itself;
            `CEILING_BUDGET` by default. Fewer, for a slow prior, understate what could leak at most.
        ceiling: those inversions' images, of the images to be attacked, where they are known already.
        only: numbers of the images to be attacked; the others are private too, and so no controls.
        seed: of every random draw.
        decoys: images and labels of the same domain, for ranks, siblings and class means; by default
            the prior's own held-out images.
        distance: "cosine" or "l2".
        latents: how searched coordinates become latents, as in `attack`.
        backend: of the gradient oracle.
        precision: of the gradient oracle.
        round: rounds of training before this one, for defenses that change over training.
        rounds: of training in all.
        checkpoints: a folder that lets a killed audit resume with an identical result.
        progress: called after every generation.

    Raises:
        InputError: shapes, labels or names that do not fit.
        GradientError: a private image's gradient is zero or not finite.
        CheckpointError: `checkpoints` holds those of another audit.
    """
    images, labels = images.cpu(), labels.cpu()
    known = [load_defense(defense) for defense in defenses]
    check_attackers(attackers, known)
    find_distance(distance)
    rule = load_latents(prior.latents if latents is None else latents)
    for strategy in strategies:
        trial = load_strategy(strategy, latent_dim=prior.latent_dim, budget=budget, seed=seed)
        check_budget(budget, trial.batch_size)
    _check(images, labels, prior)
    pool, pool_labels = decoys or _heldout(prior)
    oracle = GradientOracle(victim, backend=backend, precision=precision)
    numbers = list(range(len(images)) if only is None else only)
    chosen = choose_decoys(images, labels, pool, pool_labels, seed)
    shared_settings = _Audit(
        oracle=oracle,
        victim=victim,
        prior=prior,
        images=images[numbers],
        labels=labels[numbers],
        numbers=numbers,
        every_label=labels,
        decoys=Decoys([chosen.images[i] for i in numbers], chosen.siblings[numbers]),
        errors=measures(_features(victim, oracle.device), load_lpips()),
        budget=budget,
        ceiling_budget=CEILING_BUDGET if ceiling_budget is None else ceiling_budget,
        seed=seed,
        distance=distance,
        latents=rule.name,
        checkpoints=checkpoints,
        progress=progress,
        backend=backend,
        round=round,
        rounds=rounds,
        known_ceiling=ceiling,
    )
    return _run(shared_settings, known, strategies, attackers)


def _run(
    audit: _Audit, defenses: Sequence[Defense], strategies: Sequence[str], attackers: Sequence[str]
) -> Report:
    started = time.monotonic()
    for defense in defenses:
        oracle = audit.wrapped(defense)
        if ANALYTIC in attackers and find_first_linear(oracle.model, audit.prior.image_shape) is None:
            raise InputError(
                "expected a victim whose first layer is linear with a bias, such as mlp, for the analytic "
                f"attacker; {type(audit.victim).__name__} has none: leave that attacker out"
            )
        for g in audit.shared(defense, oracle, "private"):
            check_gradient(g, f"a gradient under {defense.name}")
    ceiling = audit.ceiling()
    passive = audit.passive_controls()
    return Report(
        settings=_settings(audit),
        images=audit.images,
        labels=audit.labels,
        siblings=audit.decoys.siblings,
        ceiling_images=ceiling,
        ceiling=audit.score(ceiling),
        cells=[cell for defense in defenses for cell in audit.cells(defense, strategies, attackers, passive)],
        seconds=time.monotonic() - started,
    )


def _settings(audit: _Audit) -> dict[str, object]:
    victim = audit.victim
    return {
        "victim": type(victim).__name__,
        "victim_mode": "train" if victim.training else "eval",
        "victim_parameters": sum(p.numel() for p in victim.parameters()),
        "prior": audit.prior.name,
        "images": len(audit.images),
        "budget": audit.budget,
        "ceiling_budget": audit.ceiling_budget,
        "seed": audit.seed,
        "distance": audit.distance,
        "latents": audit.latents,
        "backend": audit.oracle.backend,
        "precision": audit.oracle.precision,
        "round": audit.round,
        "rounds": audit.rounds,
        "device": str(audit.oracle.device),
        "attacker_knows": "architecture, weights, mode, label, batch size 1, data domain",
    }


def _check(images: Tensor, labels: Tensor, prior: Prior) -> None:
    if tuple(images.shape[1:]) != tuple(prior.image_shape):
        raise InputError(
            f"expected images of the shape that prior {prior.name} gives, {tuple(prior.image_shape)}; "
            f"found {tuple(images.shape[1:])}"
        )
    if len(images) == 0 or labels.shape != images.shape[:1]:
        raise InputError(f"expected one label for each of {len(images)} images, found {tuple(labels.shape)}")
    if not (torch.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
        raise InputError("expected images in [0, 1]; divide by 255 first?")
    prior.check_labels(labels)


def _heldout(prior: Prior) -> tuple[Tensor, Tensor]:
    if prior.heldout is None:
        raise InputError(
            f"prior {prior.name} brings no held-out images: give decoys=(images, labels) of its domain"
        )
    pool = load_dataset(prior.heldout)
    return pool.images, pool.labels


def _features(victim: nn.Module, device: torch.device) -> Measure | None:
    """Return the distance between the victim's penultimate features, where it offers `features`."""
    if not callable(getattr(victim, "features", None)):
        return None
    features: Any = copy.deepcopy(victim).eval().features
    return lambda a, b: feature_distance(features, a.to(device), b.to(device)).cpu()
