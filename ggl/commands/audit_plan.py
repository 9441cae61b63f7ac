"""What `ggl audit` was asked for, and whether its options fit each other."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from ggl.attacks.pixel_attacks import find_contrast
from ggl.audits.attackers import ALL, ANALYTIC
from ggl.base.errors import InputError
from ggl.commands.weight_options import identity_of
from ggl.gradients.client_optimizers import load_client_optimizer

__all__ = ["ESTIMATE", "AuditPlan", "checked_plan"]

ESTIMATE = "estimate"
"""Instead of a learning rate: it is estimated from the update."""

Pair: TypeAlias = tuple[str | Path, str | Path]
"""Weights before and after local training."""


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
    victim_weights: str | Path | None = None
    num_classes: int | None = None
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
    update: Pair | None = None
    further_updates: tuple[Pair, ...] = ()
    update_difference: str | Path | None = None
    truth: str | None = None
    groups: str | None = None
    loss: str = "cross-entropy"
    victim_output: str | None = None
    force: bool = False
    batch_statistics: bool = False
    ladder: bool = False

    @property
    def captured(self) -> bool:
        """Whether a captured update is audited, and no simulated client's."""
        return self.update is not None or self.update_difference is not None

    def asked(self) -> dict[str, object]:
        """Return what identifies the victim, the data and the update, for the settings of a result."""
        files = [file for pair in (self.update or (), *self.further_updates) for file in pair]
        return {
            "victim": self.victim,
            "victim_weights": identity_of("--victim-weights", self.victim_weights),
            "data": self.data,
            "split": self.split,
            "fit": self.fit,
            "update": [identity_of("--update", file) for file in files] or None,
            "update_difference": identity_of("--update-difference", self.update_difference, signed=True),
            "truth": self.truth,
            "groups": self.groups,
            "victim_output": self.victim_output,
        }


def checked_plan(plan: AuditPlan) -> AuditPlan:
    """Return the plan with every option in its own place.

    Raises:
        InputError: options that do not fit each other.
    """
    plan = _with_rate(plan)
    _check(plan)
    return plan


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
    if plan.ladder:
        _check_ladder(plan)
    if not 0 <= plan.momentum < 1:
        raise InputError(f"--momentum: expected a number from 0 to below 1, found {plan.momentum:g}")
    if not plan.captured:
        if plan.images % plan.batch_size:
            raise InputError(
                f"--images: expected whole batches of {plan.batch_size}, found {plan.images} images; give a "
                "multiple of it"
            )
        if plan.truth is not None or plan.private_labels:
            raise InputError(
                "--truth and --private-labels say what is in a captured update: give --update too, or "
                "--update-difference"
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
    if plan.update is not None and plan.update_difference is not None:
        raise InputError("--update and --update-difference: expected one of them, found both")
    if plan.update_difference is not None and plan.victim_weights is None:
        raise InputError(
            "--update-difference: expected the weights that the client started from beside it, give "
            "--victim-weights"
        )
    if plan.update is not None and plan.victim_weights is not None:
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
    if plan.further_updates and plan.batch_size > 1 and plan.truth is None and not plan.private_labels:
        raise InputError(
            "--update of several rounds: expected the labels of a batch, give --private-labels or --truth"
        )
    if plan.further_updates and plan.batch_statistics:
        raise InputError("--update of several rounds: expected no --batch-statistics, leave it out")
    if plan.further_updates and load_client_optimizer(plan.client_optimizer)[0].clip_norm is not None:
        raise InputError(
            f"--update of several rounds: expected steps that are not clipped by their norm, found "
            f"--client-optimizer {plan.client_optimizer}: attack each round apart"
        )
    if plan.truth is None:
        _check_single(plan)


def _check_ladder(plan: AuditPlan) -> None:
    """Refuse what a ladder's rungs choose themselves, and an update of which nothing could be scored."""
    chosen = {
        "--strategy": plan.strategies,
        "--attacker": plan.attackers,
        "--label-rule": plan.label_rule,
        "--batch-statistics": plan.batch_statistics,
    }
    given = [option for option, value in chosen.items() if value]
    if given:
        raise InputError(f"--ladder chooses these for each of its rungs: leave {', '.join(given)} out")
    if plan.captured and plan.truth is None:
        raise InputError(
            "--ladder compares the scores of its rungs: with --update expected the images behind it, give "
            "--truth, or leave --ladder out"
        )


def _check_single(plan: AuditPlan) -> None:
    """Refuse what asks for more than one attack, or compares images, where nothing is scored."""
    if plan.groups is not None:
        raise InputError("--groups compares the private images, which --truth gives: leave it out")
    for option, given in (("--strategy", plan.strategies), ("--attacker", plan.attackers)):
        if len(given) > 1:
            raise InputError(f"--update without --truth: expected one {option}, found {', '.join(given)}")
    if plan.attackers[0] in (ALL, ANALYTIC) or find_contrast(plan.strategies[0]) is not None:
        raise InputError(
            "--update without --truth: expected a search of the prior by one attacker, found "
            f"{plan.attackers[0]}, {plan.strategies[0]}"
        )
