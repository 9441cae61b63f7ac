"""A doubt flag: what makes a figure doubtful, or true and empty; docs/flags.md explains each."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ggl.benchmarks.sweeps.cells import SweepCell

__all__ = ["CHECKS", "Flag", "Severity"]

Severity: TypeAlias = Literal["doubt", "note"]
"""Doubt: the figure, or what is claimed of it, may be wrong. Note: it is right and says little."""

CHECKS: dict[str, str] = {
    "objective-zero": "the objective is zero, without information, or not finite",
    "shared-image": "an attacked image and a control's are the same",
    "failed-cells": "cells failed, and the figure is of the others",
    "ceiling-below-attack": "the attack is nearer to the private images than the ceiling",
    "private-not-matched": "the private image's own gradient does not match the observed one",
    "beyond-guarantee": "the attack finds more than the defense's proof allows any attacker",
    "adaptive-worse": "an attacker who knows more finds less",
    "random-ties": "the strategy is not shown to beat random search",
    "noise-ties": "the attack is not shown to beat the same attack on a noise gradient",
    "loss-without-error": "the search's loss falls and its error is not shown to",
    "still-improving": "the budget ended while the search still improved",
    "few-images": "there are fewer images than the interval needs",
}
"""Every flag, with what it says in a line; the graver come first."""


@dataclass(frozen=True)
class Flag:
    """A doubt about a group's figures.

    Attributes:
        name: one of `CHECKS`.
        group: what the group's cells share.
        message: one sentence with the numbers.
        cells: how many of the group's cells it concerns.
    """

    name: str
    severity: Severity
    group: SweepCell
    message: str
    cells: int
