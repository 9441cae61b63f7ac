"""What becomes of every rung of a ladder under one defense, before anything is searched."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from ggl.attacks.checkpoints import fingerprint
from ggl.attacks.label_sources import labels_to_start_from, load_label_rule
from ggl.attacks.objectives import check_statistics
from ggl.audits.attackers import ANALYTIC, alike
from ggl.audits.cells import Met
from ggl.audits.checks import check_strategy
from ggl.audits.clients import rows_of
from ggl.audits.ladder_findings import Place
from ggl.audits.rungs import CLASS_ALONE, Rung
from ggl.audits.setting import AuditSetting
from ggl.base.errors import InputError
from ggl.defenses import ATTACKERS
from ggl.gradients.batch_statistics import BatchNorm, StatisticsMatch

__all__ = ["Attempt", "Planner"]

INFERRED, SEARCHED, KNOWN = "inferred", "searched", "known"


@dataclass(frozen=True)
class Attempt:
    """A rung under one defense, and its audit's setting; None where there is nothing to run."""

    rung: Rung
    attacker: str
    place: Place
    setting: AuditSetting | None = None


@dataclass(frozen=True)
class _Labels:
    """What an attacker who is told no labels makes of them: a rule, "" where none works, and why."""

    rule: str
    key: str = ""
    reason: str = ""


class Planner:
    """Places the rungs of a ladder under one defense.

    Args:
        audit: with the statistics that were captured, False where none are.
        met: what the defense's clients share.
    """

    def __init__(self, audit: AuditSetting, met: Met) -> None:
        self.audit, self.met = audit, met
        self._likeness: dict[str, dict[str, str]] = {}
        self._firsts: dict[Hashable, int] = {}
        self._places: dict[str, Place] = {}

    def attempts(self, rungs: Sequence[Rung]) -> Iterator[Attempt]:
        """Yield what becomes of every rung but the class alone; published attacks are of who knows them."""
        known = (*ATTACKERS, ANALYTIC, *self.met.defense.attackers)
        for number, rung in enumerate(rungs, 1):
            if rung is not CLASS_ALONE and rung.attacker in known:
                attempt = self._attempt(number, rung)
                self._places[rung.name] = attempt.place
                yield attempt

    def _attempt(self, number: int, rung: Rung) -> Attempt:
        who = rung.attacker if rung.attacker in (ANALYTIC, *self.met.defense.attackers) else "adaptive"
        place = Place(number, self.met.defense.name)
        if (reason := self._reason(rung)) is not None:
            return Attempt(rung, who, replace(place, reason=reason))
        if rung.alone and self.audit.clients.batch_size == 1:
            below = self._places[rung.on]
            same = below.same_as or below.rung
            return Attempt(rung, who, replace(place, same_as=same, reason=below.reason))
        setting = self._setting(number, rung)
        first = self._firsts.setdefault(self._key(rung, who, setting), number)
        if first != number:
            return Attempt(rung, who, replace(place, same_as=first))
        if who != ANALYTIC:
            check_strategy(setting, rung.strategy)
        return Attempt(rung, who, replace(place, label_rule=setting.attack.label_rule), setting)

    def _setting(self, number: int, rung: Rung) -> AuditSetting:
        audit, clients = self.audit, self.audit.clients
        observed = rung.statistics != "not observed" and self._unobserved is None
        seen = clients.statistics if clients.captured is not None else True
        clients = replace(clients, statistics=seen if observed else False)
        if rung.alone:
            clients = replace(clients, batch_size=1, numbers=rows_of(clients.numbers, clients.batch_size))
        attack = replace(audit.attack, label_rule=KNOWN if rung.told else self._labels.rule)
        return replace(audit, attack=attack, clients=clients, stage=f"rung {number}: ")

    def _key(self, rung: Rung, who: str, setting: AuditSetting) -> Hashable:
        """Return what tells attacks on the private images, and on their siblings, apart."""
        batches = self.audit.clients.batch_labels()
        labels = self._labels_key([*batches, *batches]) if rung.told else self._labels.key
        if who != ANALYTIC:
            who = self._alike(setting.searching(rung.strategy).distance)[who]
        return rung.strategy, who, labels, setting.clients.statistics is not False, rung.alone

    def _labels_key(self, batches: Sequence[Tensor]) -> str:
        """Return what tells labels apart; those of a batch have an order where its steps take parts of it."""
        local = self.audit.oracle.local
        ordered = local is not None and local.batch_size is not None
        return fingerprint({}, batches if ordered else [batch.sort().values for batch in batches])

    def _alike(self, distance: str) -> dict[str, str]:
        """Return for every attacker of the defense the first that does the same."""
        if distance not in self._likeness:
            defense, oracle, shared = self.met.defense, self.met.oracle, self.met.shared["private"]
            self._likeness[distance] = alike(defense, oracle, defense.attackers, shared, distance)
        return self._likeness[distance]

    def _reason(self, rung: Rung) -> str | None:
        """Return why a rung cannot be tried, None where it can."""
        if rung.attacker == ANALYTIC and self.met.layer is None:
            return "the victim's first layer is not linear with a bias"
        if rung.attacker == ANALYTIC and not self.audit.solvable:
            return "expected a gradient of one image and one local step"
        if not rung.told and not self._labels.rule:
            return self._labels.reason
        if not rung.told and self._labels.rule == SEARCHED and rung.strategy in ("ig", "adam", ANALYTIC):
            return f"it cannot search for labels, and has to read them: {self._labels.reason}"
        if rung.statistics == "observed" and self._unobserved is not None:
            return self._unobserved
        return self._inseparable if rung.alone else None

    @cached_property
    def _labels(self) -> _Labels:
        oracle, prior = self.met.oracle, self.audit.attack.prior
        batches, read = self.audit.clients.batch_labels(), []
        try:
            for kind, shared in self.met.shared.items():
                for g, batch in zip(shared, batches, strict=True):
                    labels = labels_to_start_from(f"{kind} gradient", batch, g, INFERRED, oracle, prior)
                    prior.check_labels(labels)
                    read += [] if kind == "noise" else [labels]
            return _Labels(INFERRED, self._labels_key(read))
        except InputError as error:
            unread = str(error)
        try:
            load_label_rule(SEARCHED, oracle, prior)
        except InputError as error:
            return _Labels("", reason=f"{unread}; nor can they be searched: {error}")
        return _Labels(SEARCHED, SEARCHED, unread)

    @cached_property
    def _unobserved(self) -> str | None:
        """Why a batch's statistics are not observed, None where they are."""
        clients, model = self.audit.clients, self.met.oracle.model
        if clients.captured is not None and clients.statistics is False:
            return "the statistics of the captured update's batch are not given"
        try:
            check_statistics(model, self.met.oracle.local)
            for seen in () if isinstance(clients.statistics, bool) else clients.statistics:
                StatisticsMatch(model, seen)
        except InputError as error:
            return str(error).removeprefix("batch statistics: ")
        return None

    @cached_property
    def _inseparable(self) -> str | None:
        """Why no image of a batch has a gradient of its own, None where it has."""
        clients, local = self.audit.clients, self.audit.oracle.local
        if clients.batch_size == 1:
            return None
        if clients.captured is not None:
            return "the captured update is of a whole batch"
        if local is not None and not (local.is_gradient and local.batch_size is None):
            return "after several local steps no image has an update of its own"
        if any(isinstance(m, BatchNorm) and m.training for m in self.met.oracle.model.modules()):
            return "batch normalization in train mode mixes a batch's images"
        return None
