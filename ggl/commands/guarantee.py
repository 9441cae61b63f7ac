"""What a guarantee allows any attacker, in words."""

import math
from collections.abc import Sequence
from typing import Any

from ggl.base.errors import InputError
from ggl.costs.guarantees import Allowance
from ggl.defenses import load_defense
from ggl.defenses.base import Composed
from ggl.defenses.privacy import PrivateDefense

__all__ = ["AT_MOST", "bound_lines", "bound_text", "described", "known_layers"]

AT_MOST = "at most"
LEGEND = """\
at most: what a guarantee allows any attacker of "identified", by its sensitivity, against no image"""
EXCEEDED = """\
doubtful: more is found than the guarantee allows; either the accounting is wrong, or the private images
and their decoys were not equally likely (docs/guarantees.md)"""


def known_layers(name: str, layers: int | None) -> int:
    """Return how many parameter tensors a proof counts: 1 where a defense treats none by itself.

    Raises:
        InputError: it does, and their number was not given.
    """
    defense = load_defense(name)
    parts = defense.parts if isinstance(defense, Composed) else (defense,)
    apart = any(
        part.norm_after(math.inf, 2) != part.norm_after(math.inf, 1)
        or (
            isinstance(part, PrivateDefense)
            and part.guarantee == "formal"
            and part.sensitivity_factor(2) != part.sensitivity_factor(1)
        )
        for part in parts
    )
    if layers is None and apart:
        raise InputError(
            f"{defense.name} clips every parameter tensor of the victim by itself, so that the sensitivity "
            "grows with their number: give it, --layers 10"
        )
    return 1 if layers is None else layers


def described(found: Allowance, candidates: int) -> str:
    """Return two lines: the most that any attacker can do, and the mechanism that it follows from.

    Raises:
        InputError: nothing is proved of the defense.
    """
    most, mechanism = found.identification(candidates), found.mechanism
    if most is None or mechanism is None:
        raise InputError(f"defense {found.defense} allows no bound: {found.reason}")
    figures = {"mu": found.mu, "epsilon": found.epsilon, "rho": found.rho}
    known = ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if value is not None)
    return (
        f"at most {most:.4g} of private images are found among {candidates} equally likely candidates, where "
        f"chance is {1 / candidates:.4g}; {found.kind}\n"
        f"{mechanism.noise} noise of {mechanism.scale:.4g} on a sensitivity of {mechanism.sensitivity:.4g} "
        f"against no image, {2 * mechanism.sensitivity:.4g} between two; {known or 'subsampled'}"
    )


def bound_text(cell: Any) -> str:
    """Return what a guarantee allows in a cell of `result.json`, or what there is instead."""
    found = cell["guarantee"]
    if found is None or found["kind"] is None:
        return "no proof"
    most = found["most"]["identification"]
    return found["kind"] if most is None else f"{most:.3f}"


def bound_lines(cells: Sequence[Any]) -> list[str]:
    """Return what stands below a table of cells: nothing where no defense has a guarantee."""
    known = [cell for cell in cells if cell["guarantee"] and cell["guarantee"]["kind"]]
    used = dict.fromkeys(_sensitivity(cell) for cell in known)
    doubts = [f"{c['defense']}, {c['attacker']}: {EXCEEDED}" for c in known if c["guarantee"]["exceeded"]]
    return [LEGEND, *used, *doubts] if known else []


def _sensitivity(cell: Any) -> str:
    found = cell["guarantee"]
    if found["mechanism"] is None:
        return f"  {cell['defense']}: {found['kind']}, since {found['reason']}"
    return (
        f"  {cell['defense']}: {bound_text(cell)}, sensitivity {found['sensitivity']:.4g}, "
        f"{found['mechanism']} noise of {found['noise']:.4g}"
    )
