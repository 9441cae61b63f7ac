"""What an audit was asked for, and that checked and put together, before anything is searched."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from ggl.attacks.label_sources import check_label_rule
from ggl.attacks.latents import load_latents
from ggl.attacks.objectives import check_statistics
from ggl.attacks.settings import AUTO, AttackSettings
from ggl.attacks.stages import Stage
from ggl.attacks.workplace import Workplace
from ggl.audits.attackers import check_attackers
from ggl.audits.cells import BegunCell, cells_of, meet
from ggl.audits.checks import check_defenses, check_images, check_strategy
from ggl.audits.clients import Clients, rows_of
from ggl.audits.controls import Decoys, choose_decoys
from ggl.audits.ladder import LadderPlan, begin_climbing, plan_ladder
from ggl.audits.scoring import features_distance
from ggl.audits.setting import AuditSetting
from ggl.base.errors import GradientError, InputError
from ggl.datasets.loading import load_dataset
from ggl.defenses import Defense, load_defense
from ggl.generators import Prior
from ggl.generators.plausibility import warn_if_implausible
from ggl.gradients import GradientOracle, Gradients, LocalTraining
from ggl.gradients.batch_statistics import BatchStatistics
from ggl.gradients.convergence import warn_if_converged
from ggl.gradients.distance import find_distance
from ggl.measures.leakage import Scores, measures
from ggl.measures.lpips import load_lpips
from ggl.victims.losses import Loss
from ggl.victims.outputs import bare_module, with_output

__all__ = ["CEILING_BUDGET", "AuditRequest", "PreparedAudit"]

CEILING_BUDGET = 2000
"""Evaluations that the inversion of each private image may spend: Adam, four starts."""


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """The arguments of `ggl.audit` that say what is audited, by their names, with the same defaults."""

    victim: nn.Module
    images: Tensor
    labels: Tensor
    prior: Prior
    defenses: Sequence[str | Defense] = ("none",)
    strategies: Sequence[str] = (AUTO,)
    attackers: Sequence[str] = ("adaptive",)
    budget: int = 2000
    ceiling_budget: int | None = None
    ceiling: Tensor | None = None
    only: Sequence[int] | None = None
    seed: int = 0
    decoys: tuple[Tensor, Tensor] | None = None
    distance: str = "cosine"
    latents: str | None = None
    batch_size: int = 1
    label_rule: str = "known"
    local: LocalTraining | None = None
    loss: str | Loss = "cross-entropy"
    output: str | None = None
    captured: Sequence[Gradients] | None = None
    statistics: bool | Sequence[BatchStatistics] = False
    backend: str = "auto"
    precision: str = "float32"
    round: int = 0
    rounds: int = 10_000
    ladder: bool = False

    def prepared(
        self, checkpoints: Path | None = None, workers: int = 1, progress: Stage | None = None
    ) -> "PreparedAudit":
        """Return the audit, checked, with its clients and controls, and nothing searched.

        Raises:
            InputError: shapes, labels or names that do not fit.
            GradientError: a private image's gradient is zero or not finite, under a ladder.
        """
        known = [load_defense(defense) for defense in self.defenses]
        check_attackers(self.attackers, known)
        find_distance(self.distance)
        prior, images, labels = self.prior, self.images.cpu(), self.labels.cpu()
        rule = load_latents(prior.latents if self.latents is None else self.latents)
        label_rule = self._label_rule()
        check_label_rule(label_rule)
        check_images(images, labels, prior, self.batch_size)
        if self.local is not None:
            self.local.check(self.batch_size)
        if self.statistics is not False and not self.ladder:
            check_statistics(self.victim, self.local)
        victim = with_output(copy.deepcopy(bare_module(self.victim, "the victim")), self.output)
        oracle = GradientOracle(
            victim, loss=self.loss, backend=self.backend, precision=self.precision, local=self.local
        )
        clients, decoys = self._clients(images, labels)
        setting = AuditSetting(
            oracle=oracle,
            victim=victim,
            attack=AttackSettings(
                prior=prior,
                budget=self.budget,
                distance=self.distance,
                latents=rule.name,
                label_rule=label_rule,
                seed=self.seed,
            ),
            clients=clients,
            every_label=labels,
            decoys=decoys,
            errors=measures(features_distance(victim, oracle.device), load_lpips()),
            ceiling_budget=CEILING_BUDGET if self.ceiling_budget is None else self.ceiling_budget,
            checkpoints=checkpoints,
            place=Workplace(workers, oracle.device, progress),
            backend=self.backend,
            known_ceiling=self.ceiling,
        )
        plan = plan_ladder(setting, known) if self.ladder else None
        if plan is not None:
            setting = replace(setting, clients=replace(clients, statistics=False))
        for strategy in self.strategies if plan is None else ():
            check_strategy(setting, strategy)
        return PreparedAudit(setting, known, self.strategies, self.attackers, plan)

    def _label_rule(self) -> str:
        """Return where the attacker has the labels from; a ladder's are read off the gradient at first."""
        if not self.ladder:
            return self.label_rule
        chosen = (tuple(self.strategies), tuple(self.attackers), self.label_rule, self.statistics is True)
        if chosen != ((AUTO,), ("adaptive",), "known", False):
            raise InputError(
                "a ladder has strategies, attackers, label rules, and rungs with batch statistics and "
                "without: leave these out, but for the statistics that were captured"
            )
        return "inferred"

    def _clients(self, images: Tensor, labels: Tensor) -> tuple[Clients, Decoys]:
        """Return the clients that are attacked, and the decoys of their images."""
        pool, pool_labels = self.decoys or _heldout(self.prior)
        numbers = list(range(len(images) // self.batch_size) if self.only is None else self.only)
        rows = rows_of(numbers, self.batch_size)
        chosen = choose_decoys(images, labels, pool, pool_labels, self.seed, self.batch_size)
        clients = Clients(
            images=images[rows],
            siblings=chosen.siblings[rows],
            labels=labels[rows],
            numbers=numbers,
            batch_size=self.batch_size,
            seed=self.seed,
            round=self.round,
            rounds=self.rounds,
            captured=self.captured,
            statistics=self.statistics,
        )
        return clients, Decoys([chosen.images[i] for i in rows], chosen.siblings[rows])


@dataclass(frozen=True)
class PreparedAudit:
    """An audit that can begin.

    Attributes:
        ladder: what becomes of its rungs; None where every strategy is tried by every attacker.
    """

    setting: AuditSetting
    defenses: Sequence[Defense]
    strategies: Sequence[str]
    attackers: Sequence[str]
    ladder: LadderPlan | None

    def doubts(self, stacklevel: int) -> list[str]:
        """Refuse what cannot be attacked, warn of what says little, and return what is doubtful of the prior.

        Raises:
            InputError: an analytic attacker without a first linear layer, or labels that cannot be read.
            GradientError: a private image's gradient is zero or not finite.
        """
        audit = self.setting
        if self.ladder is None:
            check_defenses(audit, self.defenses, self.attackers)
        # In eval mode: an image alone has no batch statistics.
        single = GradientOracle(
            copy.deepcopy(audit.victim).eval(), loss=audit.oracle.loss, backend="sequential"
        )
        warn_if_converged(single, audit.clients.images, audit.clients.labels, stacklevel=stacklevel + 1)
        return warn_if_implausible(audit.attack.prior, audit.attack.seed, stacklevel=stacklevel + 1)

    def begun(self, passive: Mapping[str, Scores]) -> Iterator[BegunCell]:
        """Begin the cells, one after the other; what a ladder cannot begin is left out."""
        if self.ladder is not None:
            for _, begun in begin_climbing(self.setting, self.ladder, passive):
                yield from () if isinstance(begun, GradientError) else begun
            return
        for defense in self.defenses:
            met = meet(self.setting, defense)
            yield from cells_of(self.setting, met, self.strategies, self.attackers, passive)


def _heldout(prior: Prior) -> tuple[Tensor, Tensor]:
    if prior.heldout is None:
        raise InputError(
            f"prior {prior.name} brings no held-out images: give decoys=(images, labels) of its domain"
        )
    pool = load_dataset(prior.heldout)
    return pool.images, pool.labels
