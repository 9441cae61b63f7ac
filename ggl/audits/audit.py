"""The audit: every defense, attacker and strategy on the same images, against the same controls."""

import copy
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ggl.attacks.analytic import find_first_linear
from ggl.attacks.label_sources import check_label_rule, labels_to_start_from, load_label_rule
from ggl.attacks.latents import load_latents
from ggl.attacks.objectives import check_statistics
from ggl.attacks.search import check_budget
from ggl.attacks.settings import AUTO, AttackSettings
from ggl.attacks.stages import Stage
from ggl.attacks.strategy_choice import SCALAR
from ggl.audits.attackers import ANALYTIC, check_attackers
from ggl.audits.cells import cells_of, invert_private
from ggl.audits.clients import Clients, rows_of
from ggl.audits.controls import Decoys, choose_decoys
from ggl.audits.report import Report
from ggl.audits.scoring import features_distance, passive_controls, scored
from ggl.audits.setting import AuditSetting
from ggl.audits.truth import TruthCheck, worst_check
from ggl.base.errors import InputError
from ggl.datasets.loading import load_dataset
from ggl.defenses import Defense, load_defense
from ggl.generators import Prior
from ggl.generators.plausibility import warn_if_implausible
from ggl.gradients import GradientOracle, Gradients, LocalTraining
from ggl.gradients.batch_statistics import BatchStatistics
from ggl.gradients.convergence import warn_if_converged
from ggl.gradients.distance import find_distance
from ggl.gradients.oracle import check_gradient
from ggl.gradients.residuals import check_sum_of_squares
from ggl.measures.leakage import measures
from ggl.measures.lpips import load_lpips
from ggl.measures.metrics import check_window
from ggl.optimizers import load_strategy
from ggl.victims.losses import Loss
from ggl.victims.outputs import bare_module, with_output

__all__ = ["CEILING_BUDGET", "audit"]

CEILING_BUDGET = 2000
"""Evaluations that the inversion of each private image may spend: Adam, four starts."""


def audit(
    victim: nn.Module,
    images: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    *,
    prior: Prior,
    defenses: Sequence[str | Defense] = ("none",),
    strategies: Sequence[str] = (AUTO,),
    attackers: Sequence[str] = ("adaptive",),
    budget: int = 2000,
    ceiling_budget: int | None = None,
    ceiling: Float[Tensor, "m c h w"] | None = None,
    only: Sequence[int] | None = None,
    seed: int = 0,
    decoys: tuple[Float[Tensor, "k c h w"], Int[Tensor, " k"]] | None = None,
    distance: str = "cosine",
    latents: str | None = None,
    batch_size: int = 1,
    label_rule: str = "known",
    local: LocalTraining | None = None,
    loss: str | Loss = "cross-entropy",
    output: str | None = None,
    captured: Sequence[Gradients] | None = None,
    truth: TruthCheck | None = None,
    force: bool = False,
    statistics: bool | Sequence[BatchStatistics] = False,
    backend: str = "auto",
    precision: str = "float32",
    round: int = 0,  # noqa: A002
    rounds: int = 10_000,
    checkpoints: Path | None = None,
    progress: Stage | None = None,
) -> Report:
    """Measure how much of private images their clients' gradients give away.

    Every cell attacks the private batches, siblings of them (of every image another of its class) and noise
    gradients of the same norm: same seed, same budget, same defense. Reconstructions of a batch, those of
    the controls too, are matched to its images before they are scored; intervals and tests are over batches.

    Args:
        victim: the model, on the device and in the mode (train, eval) that the clients have.
        images: private images in [0, 1], of the prior's shape.
        labels: their classes.
        prior: the attacker's generator.
        defenses: names such as "none", "prune:0.9", "clip:4+noise:0.01".
        strategies: "auto" as in `ggl.attack`, names such as "cma-es", "adam:starts=2", or contrasts that
            search pixels instead of the prior ("dlg", "idlg", "ig").
        attackers: of "naive", "adaptive", "informed" and those that a defense adds; one that a defense
            does not know is "adaptive" to it. "analytic" solves the gradient of a first linear layer for
            the image; "all" is every one that applies. Those that would do the same are one, the first.
        budget: objective evaluations of each search.
        ceiling_budget: objective evaluations, with gradients, of each inversion of a private image itself;
            `CEILING_BUDGET` by default. Fewer, for a slow prior, understate what could leak at most.
        ceiling: those inversions' images, of the images to be attacked, where they are known already.
        only: numbers of the clients to be attacked; the others' images are private too, and so no controls.
        seed: of every random draw.
        decoys: images and labels of the same domain, for ranks, siblings and class means; by default
            the prior's own held-out images.
        distance: "cosine" or "l2".
        latents: how searched coordinates become latents, as in `attack`.
        batch_size: images of each client, in a row.
        label_rule: where the attacker has the labels from: "known", "inferred" from the shared gradient, or
            "searched" with the latents.
        local: the clients' local steps, known to the attacker; by default they share one gradient.
        loss: that clients minimize, as of `GradientOracle`.
        output: which of the victim's outputs the logits are, as of `GradientOracle`.
        captured: what the clients to be attacked have shared, where it was captured and not to be computed
            here; defended already, in units of gradients. Where the images do not make them, leak scores
            are withheld.
        truth: what `check_truth` says of that; by default it is called here, for files of float32.
        force: give leak scores all the same.
        statistics: whether the clients' running statistics are observed, and those of their batches matched
            beside the gradient; or these, of each of the clients to be attacked, where they were captured.
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
    check_label_rule(label_rule)
    _check(images, labels, prior, batch_size)
    if local is not None:
        local.check(batch_size)
    if statistics is not False:
        check_statistics(victim, local)
    pool, pool_labels = decoys or _heldout(prior)
    victim = with_output(copy.deepcopy(bare_module(victim, "the victim")), output)
    oracle = GradientOracle(victim, loss=loss, backend=backend, precision=precision, local=local)
    numbers = list(range(len(images) // batch_size) if only is None else only)
    rows = rows_of(numbers, batch_size)
    chosen = choose_decoys(images, labels, pool, pool_labels, seed, batch_size)
    clients = Clients(
        images=images[rows],
        siblings=chosen.siblings[rows],
        labels=labels[rows],
        numbers=numbers,
        batch_size=batch_size,
        seed=seed,
        round=round,
        rounds=rounds,
        captured=captured,
        statistics=statistics,
    )
    setting = AuditSetting(
        oracle=oracle,
        victim=victim,
        attack=AttackSettings(
            prior=prior,
            budget=budget,
            distance=distance,
            latents=rule.name,
            label_rule=label_rule,
            seed=seed,
        ),
        clients=clients,
        every_label=labels,
        decoys=Decoys([chosen.images[i] for i in rows], chosen.siblings[rows]),
        errors=measures(features_distance(victim, oracle.device), load_lpips()),
        ceiling_budget=CEILING_BUDGET if ceiling_budget is None else ceiling_budget,
        checkpoints=checkpoints,
        progress=progress,
        backend=backend,
        known_ceiling=ceiling,
    )
    for strategy in strategies:
        _check_strategy(setting, strategy)
    truth = worst_check(setting, known) if truth is None else truth
    report = _run(setting, known, strategies, attackers)
    return replace(report, truth=truth, forced=force)


def _check_strategy(audit: AuditSetting, strategy: str) -> None:
    """Raise `InputError` for an unknown strategy, or a budget below its first generation."""
    settings, batch = audit.searching(strategy), audit.clients.batch_size
    labels = load_label_rule(settings.label_rule, audit.oracle, settings.prior)
    trial = load_strategy(
        SCALAR if strategy == AUTO else settings.strategy,
        latent_dim=batch * (settings.prior.latent_dim + labels.size),
        budget=settings.budget,
        seed=settings.seed,
        blocks=batch,
    )
    check_budget(settings.budget, trial.batch_size)
    if trial.needs_residuals:
        check_sum_of_squares(settings.distance)


def _run(
    audit: AuditSetting, defenses: Sequence[Defense], strategies: Sequence[str], attackers: Sequence[str]
) -> Report:
    started = time.monotonic()
    for defense in defenses:
        oracle = audit.wrapped(defense)
        if ANALYTIC in attackers and find_first_linear(oracle.model, audit.attack.prior.image_shape) is None:
            raise InputError(
                "expected a victim whose first layer is linear with a bias, such as mlp, for the analytic "
                f"attacker; {type(audit.victim).__name__} has none: leave that attacker out"
            )
        if ANALYTIC in attackers and not audit.solvable:
            raise InputError(
                "the analytic attacker solves the gradient of one image: expected batches of 1 and one local "
                "step; leave that attacker out"
            )
        batches = audit.clients.batch_labels()
        for g, batch in zip(audit.clients.shared(defense, oracle, "private"), batches, strict=True):
            check_gradient(g, f"a gradient under {defense.name}")
            attack = audit.attack
            labels_to_start_from(defense.name, batch, g, attack.label_rule, oracle, attack.prior)
    # In eval mode: an image alone has no batch statistics.
    single = GradientOracle(copy.deepcopy(audit.victim).eval(), loss=audit.oracle.loss, backend="sequential")
    warn_if_converged(single, audit.clients.images, audit.clients.labels, stacklevel=4)
    doubts = warn_if_implausible(audit.attack.prior, audit.attack.seed, stacklevel=4)
    ceiling = invert_private(audit)
    passive = passive_controls(audit)
    return Report(
        settings={**audit.described(), "prior_doubts": doubts},
        images=audit.clients.images,
        labels=audit.clients.labels,
        siblings=audit.clients.siblings,
        ceiling_images=ceiling,
        ceiling=scored(audit, ceiling),
        cells=[
            cell for defense in defenses for cell in cells_of(audit, defense, strategies, attackers, passive)
        ],
        seconds=time.monotonic() - started,
    )


def _check(images: Tensor, labels: Tensor, prior: Prior, batch_size: int) -> None:
    if tuple(images.shape[1:]) != tuple(prior.image_shape):
        raise InputError(
            f"expected images of the shape that prior {prior.name} gives, {tuple(prior.image_shape)}; "
            f"found {tuple(images.shape[1:])}"
        )
    check_window(images)
    if len(images) == 0 or labels.shape != images.shape[:1]:
        raise InputError(f"expected one label for each of {len(images)} images, found {tuple(labels.shape)}")
    if batch_size < 1 or len(images) % batch_size:
        raise InputError(
            f"expected whole batches of {batch_size}, found {len(images)} images; give a multiple of it"
        )
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
