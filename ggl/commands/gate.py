"""A gate for continuous integration: what an audit may find before its exit code says so."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from ggl.base.errors import InputError
from ggl.base.registry import unknown_name

__all__ = ["FAILED", "Gate", "read_gate"]

FAILED = 3
"""Exit code of a gate that fails, and of evidence that does not hold; 2 is bad input."""

VERDICTS = {"leaks": ("leaks",), "identifies": ("leaks", "identifies")}
"""The verdicts that meet a condition: whoever accepts no identification accepts no leak either."""

SCORE = "score"
UNJUDGED = {
    "undecided": "there are fewer than six images or batches, or the leak score has no interval",
    "withheld": "the private images do not make the captured update",
}
"""Verdicts that say neither, and why."""


@dataclass(frozen=True)
class Gate:
    """Conditions that no defense of an audit may meet.

    Attributes:
        conditions: of "leaks", "identifies" and "score:X".
    """

    conditions: tuple[str, ...]

    def failures(self, result: Mapping[str, Any]) -> list[str]:
        """Return a line for every defense that meets a condition, or that is not decided; none is a pass.

        Verdicts are those of each defense's worst case. A leak score is met where that of any attacker and
        strategy, the figure itself and not its interval, lies above X. What is undecided or withheld
        fails, unless the defense fails by a figure already: a gate that cannot judge does not open.

        Args:
            result: the content of an audit's `result.json`.
        """
        rows = {row["defense"]: row for row in result["worst_case"]}
        return [
            line
            for condition in self.conditions
            for defense in _defenses(result)
            if (line := _failure(condition, defense, rows.get(defense), result["results"])) is not None
        ]

    def is_passed(self, result: Mapping[str, Any], console: Console) -> bool:
        """Say whether no defense meets a condition, and say it to the user, with the figures if one does."""
        lines = self.failures(result)
        told = ", ".join(self.conditions)
        for line in lines or [f"passed, no defense meets {told}"]:
            console.print(f"gate: {line}", markup=False, soft_wrap=True)
        return not lines


def read_gate(texts: Sequence[str]) -> Gate | None:
    """Return the gate of conditions, each text one or several with commas between; None for no text.

    Raises:
        InputError: a condition that is none.

    Examples:
        >>> from ggl.commands.gate import read_gate
        >>> read_gate(["leaks,score:0.2"]).conditions
        ('leaks', 'score:0.2')
    """
    found = dict.fromkeys(part.strip() for text in texts for part in text.split(","))
    for condition in found:
        _check(condition)
    return Gate(tuple(found)) if found else None


def _check(condition: str) -> None:
    """Refuse what is no condition."""
    name, _, value = condition.partition(":")
    if name == SCORE:
        _bound(value)
    elif condition not in VERDICTS:
        error = unknown_name("condition", condition, [*VERDICTS, "score:X"])
        raise InputError(f"--fail-on: {error}")


def _bound(text: str) -> float:
    try:
        bound = float(text)
    except ValueError:
        bound = math.nan
    if not 0 <= bound < 1:
        raise InputError(
            f"--fail-on: expected score:X with a leak score from 0 to below 1, found {SCORE}:{text}"
        )
    return bound


def _verdict(row: Mapping[str, Any]) -> str:
    """Return what may be said of a cell, corrected for the number of those beside it."""
    return str(row["corrected"]["verdict"])


def _defenses(result: Mapping[str, Any]) -> list[str]:
    """Return every defense that was audited, those on which no attack could be tried too."""
    climbed = [first["defense"] for first in result["ladder"]["first_leak"]] if result["ladder"] else []
    return list(dict.fromkeys([*climbed, *(row["defense"] for row in result["worst_case"])]))


def _failure(
    condition: str, defense: str, row: Mapping[str, Any] | None, cells: Sequence[Mapping[str, Any]]
) -> str | None:
    """Return why a defense fails a condition, None where it does not; `row` is its worst case."""
    if row is None:
        return f"{defense!r} is not decided for {condition}: no realistic attack on it could be tried"
    from ggl.audits.verdicts import judged  # which imports torch

    own = [cell for cell in judged(cells) if cell["defense"] == defense]
    name, _, value = condition.partition(":")
    if name == SCORE:
        means = {k: cell["leak_score"]["mean"] for k, cell in enumerate(own)}
        above = {k: mean for k, mean in means.items() if mean is not None and mean > _bound(value)}
        met = own[max(above, key=above.__getitem__)] if above else None
    else:
        met = row if _verdict(row) in VERDICTS[condition] else None
    if met is not None:
        return f"{row['defense']!r} meets {condition}: {_described(met)}"
    unjudged = next((verdict for cell in (row, *own) if (verdict := _unjudged(cell)) is not None), None)
    if unjudged is None:
        return None
    return f"{row['defense']!r} is not decided for {condition}: {unjudged}, {UNJUDGED[unjudged]}"


def _unjudged(cell: Mapping[str, Any]) -> str | None:
    """Return why nothing can be said of a cell's leak score, None where something can.

    A few images that are identified have a verdict, and still could show no leak.
    """
    from ggl.audits.verdicts import FEWEST_IMAGES  # which imports torch

    verdict, leak = _verdict(cell), cell["corrected"]
    if verdict in UNJUDGED:
        return verdict
    few = leak["low"] is None or leak["n"] < FEWEST_IMAGES
    return "undecided" if few and verdict != "leaks" else None


def _described(cell: Mapping[str, Any]) -> str:
    """Return a cell's verdict and leak score in words."""
    from ggl.commands.console import interval_text  # which imports torch

    leak, who = cell["corrected"], f"{cell['attacker']}, {cell['strategy']}"
    single = leak["low"] is None and leak["mean"] is not None
    score = f"{leak['mean']:.2f}, without an interval" if single else interval_text(leak)
    return f"{_verdict(cell)}, leak score {score} ({who})"
