"""What `ggl audit` was asked for, loaded and checked before anything runs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ggl.attacks.pixel_attacks import find_contrast
from ggl.audits.attackers import ALL, ANALYTIC
from ggl.base.errors import InputError
from ggl.base.files import sha256
from ggl.base.random import stream_seed
from ggl.captures.learning_rate import check_learning_rate
from ggl.captures.update import captured_update
from ggl.commands.rate_estimate import estimated_rate
from ggl.datasets.loading import Dataset, load_dataset
from ggl.datasets.picking import pick_private
from ggl.generators import Prior, load_prior
from ggl.gradients import Gradients, LocalTraining
from ggl.gradients.client_optimizers import Sgd, load_client_optimizer
from ggl.measures.statistics import Interval
from ggl.victims import load_victim

__all__ = ["AuditPlan", "Inputs", "check_class_folders", "load_inputs"]

Say: TypeAlias = Callable[[str], None]
"""Prints a line for the user."""

ESTIMATE = "estimate"
"""Instead of a learning rate: it is estimated from the update."""


@dataclass(frozen=True)
class AuditPlan:
    """Everything that `ggl audit` was asked for; names as on the command line."""

    victim: str
    data: str
    prior: str
    defenses: tuple[str, ...]
    attackers: tuple[str, ...]
    out: Path
    images: int
    budget: int
    seed: int
    device: str
    ceiling_budget: int | None = None
    strategies: tuple[str, ...] = ("auto",)
    victim_weights: Path | None = None
    victim_mode: str = "eval"
    split: str = "test"
    fit: str | None = None
    distance: str = "cosine"
    latents: str | None = None
    backend: str = "auto"
    precision: str = "float32"
    round: int = 0
    rounds: int = 10_000
    utility: Path | None = None
    batch_size: int = 1
    label_rule: str | None = None
    private_labels: tuple[int, ...] = ()
    local_steps: int = 1
    local_batch_size: int | None = None
    momentum: float = 0.0
    client_optimizer: str = "sgd"
    local_order: str = "given"
    learning_rate: str | None = None
    update: tuple[Path, Path] | None = None
    truth: str | None = None
    force: bool = False

    def asked(self) -> dict[str, object]:
        """Return what identifies the victim, the data and the update, for the settings of a result."""
        weights = self.victim_weights
        update = (
            None if self.update is None else [f"{file.name}, SHA-256 {sha256(file)}" for file in self.update]
        )
        return {
            "victim": self.victim,
            "victim_weights": None if weights is None else f"{weights.name}, SHA-256 {sha256(weights)}",
            "data": self.data,
            "split": self.split,
            "fit": self.fit,
            "update": update,
            "truth": self.truth,
        }


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
        rounding: the spacing of numbers in the captured update's files, relative to 1.
    """

    prior: Prior
    victim: nn.Module
    pool: Dataset
    images: Tensor | None
    labels: Tensor | None
    shared: Gradients | None
    local: LocalTraining | None
    learning_rate: Interval | None
    rounding: float = 0.0


def load_inputs(plan: AuditPlan, say: Say) -> Inputs:
    """Load what a plan names.

    Raises:
        InputError: options that do not fit each other, or images, labels or names that do not.
        WeightsError: a file of weights that cannot be read, or is not the victim's.
        GradientError: a captured update that is zero or not finite.
    """
    plan = _with_rate(plan)
    _check(plan)
    prior = load_prior(plan.prior)
    pool = _load_images(plan, prior, plan.data)
    channels, size, _ = prior.image_shape
    victim = load_victim(
        plan.victim,
        in_channels=channels,
        num_classes=prior.num_classes or pool.num_classes,
        image_size=size,
        seed=plan.seed,
        weights=plan.victim_weights,
    ).train(plan.victim_mode == "train")
    if plan.update is not None:
        return _load_update(plan, plan.update, prior, pool, victim, say)
    chosen = pick_private(pool.labels, plan.images, plan.seed)
    local = None if plan.learning_rate is None else _local(plan, _number(plan.learning_rate))
    return Inputs(prior, victim, pool, pool.images[chosen], pool.labels[chosen], None, local, None)


def check_class_folders(data: str, prior: Prior, hint: str = "") -> None:
    """Refuse class folders whose order, not whose names, would choose a conditional prior's classes."""
    folder = Path(data).expanduser()
    if prior.num_classes is None or not folder.is_dir():
        return
    for child in sorted(folder.iterdir()):
        if child.is_dir() and not child.name.startswith(".") and not child.name.isdigit():
            raise InputError(
                f"{folder}: prior {prior.name} draws by class: expected folders named by its labels, "
                f"0 to {prior.num_classes - 1}, found {child.name!r}{hint}"
            )


def _with_rate(plan: AuditPlan) -> AuditPlan:
    """Return the plan with the learning rate that --client-optimizer holds, if it does."""
    rule, rate = load_client_optimizer(plan.client_optimizer)
    if rate is None:
        return plan
    if plan.learning_rate is not None:
        raise InputError(
            f"--client-optimizer {plan.client_optimizer}: expected the learning rate once, found --lr "
            f"{plan.learning_rate} too"
        )
    return replace(plan, client_optimizer=rule.name, learning_rate=repr(rate))


def _check(plan: AuditPlan) -> None:
    """Refuse options that do not fit each other."""
    if not 0 <= plan.momentum < 1:
        raise InputError(f"--momentum: expected a number from 0 to below 1, found {plan.momentum:g}")
    if plan.update is None:
        if plan.images % plan.batch_size:
            raise InputError(
                f"--images: expected whole batches of {plan.batch_size}, found {plan.images} images; give a "
                "multiple of it"
            )
        if plan.truth is not None or plan.private_labels:
            raise InputError(
                "--truth and --private-labels say what is in a captured update: give --update too"
            )
        if plan.force:
            raise InputError("--force is of captured updates that --truth does not reproduce: leave it out")
        if plan.learning_rate == ESTIMATE:
            raise InputError("--lr estimate reads a captured update: give --update too, or a number")
        local = plan.local_steps > 1 or plan.local_batch_size is not None or plan.momentum != 0
        local = local or plan.client_optimizer != "sgd" or plan.local_order != "given"
        if local and plan.learning_rate is None:
            raise InputError(
                "--local-steps, --local-batch-size, --local-order, --momentum, --client-optimizer: expected "
                "the clients' learning rate beside them, give --lr"
            )
        return
    if plan.learning_rate is None:
        raise InputError("--update: expected the client's learning rate, give --lr a number, or estimate")
    if plan.victim_weights is not None:
        raise InputError(
            "--update brings the victim's weights, the first of its files; leave --victim-weights out"
        )
    if plan.local_order == "known":
        raise InputError(
            "--local-order known: expected with --update the images in the order of their steps (given), or "
            "guessed, whole or copies where nobody knows it"
        )
    if len(plan.defenses) > 1:
        raise InputError(f"--update: expected the one defense that made it, found {', '.join(plan.defenses)}")
    if plan.truth is not None and plan.private_labels:
        raise InputError("--truth holds the labels; leave --private-labels out")
    if plan.truth is None and plan.force:
        raise InputError("--force is of updates that --truth does not reproduce: give --truth too")
    if plan.truth is None:
        _check_single(plan)


def _check_single(plan: AuditPlan) -> None:
    """Refuse what asks for more than one attack, where nothing is scored."""
    for option, given in (("--strategy", plan.strategies), ("--attacker", plan.attackers)):
        if len(given) > 1:
            raise InputError(f"--update without --truth: expected one {option}, found {', '.join(given)}")
    if plan.attackers[0] in (ALL, ANALYTIC) or find_contrast(plan.strategies[0]) is not None:
        raise InputError(
            "--update without --truth: expected a search of the prior by one attacker, found "
            f"{plan.attackers[0]}, {plan.strategies[0]}"
        )


def _load_images(plan: AuditPlan, prior: Prior, source: str) -> Dataset:
    data = load_dataset(source, image_shape=prior.image_shape, fit=plan.fit, split=plan.split)
    prior.check_labels(data.labels)
    check_class_folders(source, prior)
    return data


def _load_update(
    plan: AuditPlan, files: tuple[Path, Path], prior: Prior, pool: Dataset, victim: nn.Module, say: Say
) -> Inputs:
    truth = None if plan.truth is None else _load_images(plan, prior, plan.truth)
    images, labels = (None, None) if truth is None else (truth.images, truth.labels)
    if plan.private_labels:
        labels = torch.tensor(plan.private_labels)
        prior.check_labels(labels)
    batch = plan.batch_size if labels is None else len(labels)
    estimated = None
    if plan.learning_rate == ESTIMATE:
        difference = captured_update(victim, *files, learning_rate=1.0)
        estimated = estimated_rate(difference, partial(_local, plan), prior, labels, batch, plan.seed)
        say(f"learning rate, estimated: {estimated.mean:.3g} [{estimated.low:.3g}, {estimated.high:.3g}]")
    rate = _number(plan.learning_rate) if estimated is None else estimated.mean
    captured = captured_update(victim, *files, learning_rate=rate)
    local = _local(plan, rate)
    unchecked = plan.truth is None and plan.defenses == ("none",) and estimated is None
    if unchecked and isinstance(local.rule, Sgd):
        check_learning_rate(captured, steps=plan.local_steps, momentum=local.rule.momentum)
    if captured.trained_in_train_mode and plan.victim_mode == "eval":
        say("the client trained in train mode: its running statistics moved; add --victim-mode train")
    return Inputs(
        prior,
        captured.victim,
        pool,
        images,
        labels,
        captured.gradients,
        local,
        estimated,
        captured.rounding,
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
