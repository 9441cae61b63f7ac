"""What `ggl audit` was asked for, loaded before anything runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ggl.attacks.label_sources import infer_client_labels
from ggl.base.errors import InputError
from ggl.base.random import stream_seed
from ggl.captures.batch_statistics import implied_statistics
from ggl.captures.learning_rate import check_learning_rate, estimate_by_samples
from ggl.captures.roles import check_direction
from ggl.captures.rounds import EveryRound, SeveralRounds, join_gradients
from ggl.captures.update import Captured
from ggl.commands.audit_plan import ESTIMATE, AuditPlan, checked_plan
from ggl.commands.build_victim import VictimPlan, build_victim, check_labels
from ggl.commands.weight_options import typed_update, weights_argument
from ggl.datasets.arrays import read_groups
from ggl.datasets.loading import Dataset, load_dataset
from ggl.datasets.picking import pick_private
from ggl.generators import Prior, load_prior
from ggl.gradients import GradientOracle, Gradients, LocalTraining
from ggl.gradients.batch_statistics import BatchStatistics
from ggl.gradients.client_optimizers import Sgd
from ggl.measures.statistics import Interval
from ggl.victims.losses import CrossEntropy, Loss, load_loss

__all__ = ["Inputs", "check_classes", "load_inputs"]

Say: TypeAlias = Callable[[str], None]
"""Prints a line for the user."""


@dataclass(frozen=True)
class Inputs:
    """What an audit works on.

    Attributes:
        victim: in the mode that the clients have, with the weights that they started from.
        pool: images of the private ones' domain, for controls and ranks.
        images: the private ones (n, c, h, w), None where a captured update's are not known.
        labels: of the private images, None where they are not known.
        shared: a captured update in units of gradients, None where clients are simulated.
        local: the clients' local steps, None where they share a gradient.
        learning_rate: that was estimated, with its spread.
        num_classes: of the victim.
        notes: what was found in files of weights, a line each.
        rounding: the spacing of numbers in the captured update's files, relative to 1.
        loss: of the clients.
        statistics: of a captured update's batch, where they are asked for.
        groups: of the private images, where they are asked for.
    """

    prior: Prior
    victim: nn.Module
    pool: Dataset
    images: Tensor | None
    labels: Tensor | None
    shared: Gradients | None
    local: LocalTraining | None
    learning_rate: Interval | None
    num_classes: int
    notes: tuple[str, ...] = ()
    rounding: float = 0.0
    loss: str | Loss = "cross-entropy"
    statistics: BatchStatistics | None = None
    groups: Sequence[str] | None = None


def load_inputs(plan: AuditPlan, say: Say) -> Inputs:
    """Load what a plan names.

    Raises:
        InputError: options that do not fit each other, or images, labels or names that do not.
        WeightsError: a file of weights that cannot be read, or is not the victim's.
        GradientError: a captured update that is zero or not finite.
    """
    plan = checked_plan(plan)
    prior = load_prior(plan.prior)
    pool = _load_images(plan, prior, plan.data)
    option, weights = "--victim-weights", plan.victim_weights
    if plan.update is not None:
        option, weights = "--update", plan.update[0]
    asked = VictimPlan(
        plan.victim,
        prior.image_shape,
        plan.num_classes,
        prior.num_classes or pool.num_classes,
        None if weights is None else weights_argument(option, weights),
        plan.seed,
        plan.victim_mode == "train",
        plan.victim_output,
    )
    notes: list[str] = []
    victim, classes = build_victim(asked, notes.append, fill=plan.update is None)
    check_labels(plan.data, pool.labels, classes)
    if plan.captured:
        inputs = _load_update(plan, prior, pool, victim, classes, say)
        inputs = replace(inputs, notes=(*notes, *inputs.notes))
        if plan.groups is not None and plan.truth is not None and inputs.images is not None:
            inputs = replace(inputs, groups=read_groups(plan.truth, plan.groups, len(inputs.images)))
    else:
        chosen = pick_private(pool.labels, plan.images, plan.seed)
        local = None if plan.learning_rate is None else _local(plan, _number(plan.learning_rate))
        images, labels = pool.images[chosen], pool.labels[chosen]
        inputs = Inputs(
            prior, victim, pool, images, labels, None, local, None, classes, tuple(notes), loss=plan.loss
        )
        if plan.groups is not None:
            groups = read_groups(plan.data, plan.groups, len(pool.images))
            inputs = replace(inputs, groups=[groups[i] for i in chosen.tolist()])
    for note in inputs.notes:
        say(note)
    return inputs


def check_classes(data: Dataset, prior: Prior, hint: str = "") -> None:
    """Refuse classes whose order, not whose names, would choose a conditional prior's."""
    if prior.num_classes is not None and data.class_names is not None:
        found = repr(data.class_names[0]) if data.class_names else "images without classes"
        raise InputError(
            f"{data.name}: prior {prior.name} draws by class: expected folders (or labels of a CSV) named by "
            f"its labels, 0 to {prior.num_classes - 1}, found {found}{hint}; another prior, such as "
            "pixels:CxHxW, which knows nothing, may draw without classes: ggl list priors"
        )


def _load_images(plan: AuditPlan, prior: Prior, source: str) -> Dataset:
    data = load_dataset(source, image_shape=prior.image_shape, fit=plan.fit, split=plan.split)
    check_classes(data, prior)
    prior.check_labels(data.labels)
    return data


def _load_update(
    plan: AuditPlan, prior: Prior, pool: Dataset, victim: nn.Module, classes: int, say: Say
) -> Inputs:
    truth = None if plan.truth is None else _load_images(plan, prior, plan.truth)
    images, labels = (None, None) if truth is None else (truth.images, truth.labels)
    if plan.private_labels:
        labels = torch.tensor(plan.private_labels)
        prior.check_labels(labels)
    if labels is not None:
        check_labels(plan.truth or "--private-labels", labels, classes)
    batch = plan.batch_size if labels is None else len(labels)
    estimated = None
    if plan.learning_rate == ESTIMATE:
        difference = typed_update(victim, plan.update, plan.update_difference, 1.0)
        estimated = estimate_by_samples(
            difference,
            prior,
            labels,
            batch_size=batch,
            local=partial(_local, plan),
            loss=plan.loss,
            seed=plan.seed,
        )
        say(f"learning rate, estimated: {estimated.mean:.3g} [{estimated.low:.3g}, {estimated.high:.3g}]")
    rate = _number(plan.learning_rate) if estimated is None else estimated.mean
    captured = typed_update(victim, plan.update, plan.update_difference, rate)
    rounds = [captured, *(typed_update(victim, pair, None, rate) for pair in plan.further_updates)]
    local = _local(plan, rate)
    loss = load_loss(plan.loss)
    if plan.defenses == ("none",) and isinstance(loss, CrossEntropy):
        for one in rounds:
            if not loss.smoothing:
                check_direction(one.gradients, labels, batch_size=batch, is_difference=plan.update is None)
            if plan.truth is None and estimated is None and isinstance(local.rule, Sgd):
                check_learning_rate(one, steps=plan.local_steps, momentum=local.rule.momentum)
    if captured.trained_in_train_mode and plan.victim_mode == "eval":
        say("the client trained in train mode: its running statistics moved; add --victim-mode train")
    inputs = Inputs(
        prior,
        captured.victim,
        pool,
        images,
        labels,
        captured.gradients,
        local,
        estimated,
        classes,
        captured.notes,
        captured.rounding,
        plan.loss,
        _statistics(plan, captured, say),
    )
    return _joined(inputs, rounds) if plan.further_updates else inputs


def _statistics(plan: AuditPlan, captured: Captured, say: Say) -> BatchStatistics | None:
    """Return what the update's running statistics say of its batch; a ladder does without, and says so."""
    if not (plan.batch_statistics or plan.ladder) or plan.further_updates:
        return None
    found, reason = implied_statistics(
        captured.victim, captured.before, captured.after, steps=plan.local_steps
    )
    if found is None and plan.batch_statistics:
        raise InputError(f"--batch-statistics: {reason}; leave it out")
    if found is None:
        say(f"no batch statistics: {reason}")
    return found


def _joined(inputs: Inputs, rounds: Sequence[Captured]) -> Inputs:
    """Return the inputs of one client's rounds together; a single image's label is read off the first."""
    labels = inputs.labels
    if labels is None:
        oracle = GradientOracle(rounds[0].victim, loss=inputs.loss, backend="sequential")
        labels = infer_client_labels(oracle, rounds[0].gradients, 1, inputs.prior)
        if labels is None:
            raise InputError(
                "--update of several rounds: expected a victim that says its label, give --private-labels"
            )
    return replace(
        inputs,
        victim=SeveralRounds([captured.victim for captured in rounds]),
        labels=labels,
        shared=join_gradients([captured.gradients for captured in rounds]),
        notes=tuple(dict.fromkeys(note for captured in rounds for note in captured.notes)),
        rounding=max(captured.rounding for captured in rounds),
        loss=EveryRound(inputs.loss, len(rounds)),
    )


def _local(plan: AuditPlan, rate: float) -> LocalTraining:
    """Return the clients' local training."""
    return LocalTraining(
        steps=plan.local_steps,
        learning_rate=rate,
        momentum=plan.momentum,
        batch_size=plan.local_batch_size,
        optimizer=plan.client_optimizer,
        order=plan.local_order,
        order_seed=stream_seed(plan.seed, "local order"),
    )


def _number(text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError as error:
        raise InputError(f"--lr: expected a number or {ESTIMATE!r}, found {text!r}") from error
