"""The ladder: an attack for each rung and defense, on the same images, beside the same controls."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from ggl.audits.attackers import ANALYTIC
from ggl.audits.cells import BegunCell, Met, cells_of, meet
from ggl.audits.clients import KINDS
from ggl.audits.findings import AuditCell
from ggl.audits.ladder_findings import Ladder, Place
from ggl.audits.ladder_plan import Attempt, Planner
from ggl.audits.rungs import Rung, rungs_of
from ggl.audits.scoring import passive_controls
from ggl.audits.setting import AuditSetting
from ggl.base.errors import GradientError, InputError
from ggl.defenses import Defense
from ggl.gradients.oracle import check_gradient
from ggl.measures.leakage import Scores

__all__ = ["LadderPlan", "begin_climbing", "climb", "plan_ladder"]


@dataclass(frozen=True)
class LadderPlan:
    """The rungs, and what becomes of them under every defense, in its order."""

    rungs: Sequence[Rung]
    attempts: Sequence[tuple[Defense, Sequence[Attempt]]]

    def lines(self) -> list[str]:
        """Return how much is about to be run, the ceiling apart, and what is not."""
        tried = [a for _, attempts in self.attempts for a in attempts if a.setting is not None]
        searched = [a.setting for a in tried if a.setting is not None and a.attacker != ANALYTIC]
        searches = sum(len(KINDS) * len(setting.clients) for setting in searched)
        budget = max(setting.attack.budget for setting in searched) if searched else 0
        said = (
            f"the ladder: {len(self.rungs)} rungs, {len(tried)} attacks to run; {searches:,} searches, of "
            f"private, sibling and noise gradients, of {budget:,} evaluations each: {searches * budget:,} in "
            "all, the ceiling apart"
        )
        return [
            said,
            *Ladder(self.rungs, [a.place for _, attempts in self.attempts for a in attempts]).notes(),
        ]


def plan_ladder(audit: AuditSetting, defenses: Sequence[Defense]) -> LadderPlan:
    """Return what is to be run, before anything is searched.

    Args:
        audit: with the statistics that were captured, False where none are.
        defenses: in their order.

    Raises:
        InputError: a budget below the first generation of a rung's search, or no rung that can be tried.
        GradientError: a private image's gradient is zero or not finite.
    """
    rungs = rungs_of(defenses)
    attempts = []
    for defense in defenses:
        met = meet(audit, defense)
        for g in met.shared["private"]:
            check_gradient(g, f"a gradient under {defense.name}")
        attempts.append((defense, list(Planner(audit, met).attempts(rungs))))
    plan = LadderPlan(rungs, attempts)
    if all(attempt.setting is None for _, of_one in attempts for attempt in of_one):
        raise InputError(f"no rung of the ladder can be tried: {'; '.join(plan.lines()[1:])}")
    return plan


def climb(
    audit: AuditSetting, plan: LadderPlan, passive: Mapping[str, Scores]
) -> tuple[list[AuditCell], Ladder]:
    """Run what was planned; a rung whose searches meet no finite loss is left out, with the reason.

    Returns:
        The cells in the order of defenses and their rungs, and the ladder that they stand on.

    Raises:
        GradientError: no search of any rung met a finite loss.
    """
    cells: list[AuditCell] = []
    places: list[Place] = []
    for attempt, begun in audit.place.ahead(begin_climbing(audit, plan, passive)):
        place, rung = attempt.place, attempt.rung
        try:
            if isinstance(begun, GradientError):
                raise begun
            cells += [replace(finish(), rung=place.rung, kind=rung.kind) for finish in begun]
        except GradientError as error:
            place = replace(place, reason=str(error))
        places.append(place)
    if not cells:
        raise GradientError(f"no rung of the ladder could be climbed: {places[-1].reason}")
    return cells, Ladder(plan.rungs, places)


Beginning: TypeAlias = list[BegunCell] | GradientError
"""The cell of an attempt, begun, nothing where there is nothing to run; or why it can't begin."""


def begin_climbing(
    audit: AuditSetting, plan: LadderPlan, passive: Mapping[str, Scores]
) -> Iterator[tuple[Attempt, Beginning]]:
    """Begin every attempt, in their order."""
    for defense, attempts in plan.attempts:
        met = meet(audit, defense)
        for attempt in attempts:
            try:
                yield attempt, _begin(attempt, met, passive)
            except GradientError as error:
                yield attempt, error


def _begin(attempt: Attempt, met: Met, passive: Mapping[str, Scores]) -> list[BegunCell]:
    """Begin the cell of an attempt."""
    rung, setting = attempt.rung, attempt.setting
    if setting is None:
        return []
    if rung.alone:
        met, passive = meet(setting, met.defense), passive_controls(setting)
    strategies = [] if attempt.attacker == ANALYTIC else [rung.strategy]
    return [*cells_of(setting, met, strategies, [attempt.attacker], passive)]
