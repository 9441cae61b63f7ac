"""Whom a defense meets in an audit: the attackers asked for, those that would do the same counted once."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass

from torch import Tensor

from ggl.attacks.checkpoints import fingerprint
from ggl.base.registry import unknown_name
from ggl.defenses import ATTACKERS, Defense
from ggl.gradients import Clip, GradientOracle, Gradients, Mask, View

__all__ = ["ALL", "ANALYTIC", "alike", "attackers_asked", "check_attackers", "kinds_of_attackers"]

ALL, ANALYTIC = "all", "analytic"
"""Attackers of an audit beside those that its defenses know."""


def check_attackers(attackers: Sequence[str], defenses: Sequence[Defense]) -> None:
    """Raise `UnknownNameError` for an attacker that none of the defenses knows."""
    known = list(dict.fromkeys([*ATTACKERS, *(a for d in defenses for a in d.attackers), ANALYTIC, ALL]))
    for attacker in attackers:
        if attacker not in known:
            raise unknown_name("attacker", attacker, known)


def attackers_asked(defense: Defense, attackers: Sequence[str], *, solvable: bool) -> list[str]:
    """Return whom a defense meets."""
    found: list[str] = []
    for attacker in attackers:
        if attacker == ALL:
            found += [*defense.attackers, *([ANALYTIC] if solvable else [])]
        else:
            found.append(attacker if attacker in (*defense.attackers, ANALYTIC) else "adaptive")
    return list(dict.fromkeys(found))


def kinds_of_attackers(
    defense: Defense,
    oracle: GradientOracle,
    attackers: Sequence[str],
    shared: Sequence[Gradients],
    distance: str,
) -> dict[str, list[str]]:
    """Return the attackers that differ in what they compare or how they try, the first of each kind.

    Beside each stand the others of its kind, those of the defense's that were not asked for among them.
    """
    known = dict.fromkeys([*attackers, *defense.attackers])
    firsts = alike(defense, oracle, list(known), shared, distance)
    return {
        first: [name for name, of in firsts.items() if of == first != name]
        for first in dict.fromkeys(firsts[name] for name in attackers)
    }


def alike(
    defense: Defense,
    oracle: GradientOracle,
    attackers: Sequence[str],
    shared: Sequence[Gradients],
    distance: str,
) -> dict[str, str]:
    """Return for every attacker the first of them that compares the same and tries alike."""
    kinds: dict[str, str] = {}
    firsts: dict[str, str] = {}
    for attacker in attackers:
        views = [_effective(defense.view(g, attacker, oracle.model), g, distance) for g in shared]
        trial = defense.trial(attacker) if oracle.is_sampled else None
        firsts[attacker] = kinds.setdefault(repr((views, trial)), attacker)
    return firsts


def _effective(view: View, observed: Gradients, distance: str) -> list[object]:
    """Return what tells views of one observed gradient apart.

    To a cosine a clip of the whole gradient is nothing, unless a step after it is not for scaling.
    """
    steps = list(view.steps)
    compared = view.distance or distance
    for k, step in reversed(list(enumerate(steps))):
        whole = isinstance(step, Clip) and step.is_whole
        if not (whole or isinstance(step, Mask)):
            break
        if whole and compared == "cosine" and not view.both:
            del steps[k]
    moved = {} if all(view.target[name] is g for name, g in observed.items()) else view.target
    return [*map(_digest, (*steps, *view.both, moved)), sorted(view.ignored), compared]


def _digest(what: object) -> str:
    """Return what tells steps apart: their kind and all that they hold, tensors by their bytes."""
    if isinstance(what, Tensor):
        return fingerprint({}, [what])
    if isinstance(what, Mapping):
        return repr([(name, _digest(part)) for name, part in sorted(what.items())])
    if is_dataclass(what):
        parts = {field.name: getattr(what, field.name) for field in fields(what)}
        return f"{type(what).__qualname__} {_digest(parts)}"
    return repr(what)
