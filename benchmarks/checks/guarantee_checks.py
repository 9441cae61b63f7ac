"""Doubts about accounting: an attack that finds more than a defense's proof allows any attacker."""

import functools
import math
from dataclasses import replace
from statistics import fmean

from ggl.audits.allowances import EXCESSIVE, RANKS, excess, mean_most
from ggl.base.errors import GGLError
from ggl.benchmarks.checks.flag import Flag
from ggl.benchmarks.sweeps.aggregate import CellGroup
from ggl.benchmarks.sweeps.cells import SweepCell
from ggl.benchmarks.sweeps.components import Components
from ggl.benchmarks.sweeps.records import figure_name
from ggl.costs.guarantees import Allowance, guarantee
from ggl.defenses import Defense
from ggl.defenses.mechanism import Release
from ggl.measures.leakage import HEADLINE

__all__ = ["allowance_of", "beyond_guarantee", "shares_within"]


def beyond_guarantee(group: CellGroup) -> Flag | None:
    """Doubt a figure whose exact interval lies above what the defense's proof allows any attacker.

    The rates at which private images rank first, and among the first ten. A note where the proof depends on
    a victim that can't be built here.
    """
    if not (group.has(HEADLINE) and group.has("rank")):
        return None
    try:
        allowance = allowance_of(replace(group.cell, attacker="", strategy="", latents=None, budget=0))
    except GGLError as error:
        message = f"What the guarantee of {group.cell.defense} allows could not be computed here: {error}"
        return Flag("beyond-guarantee", "note", group.cell, message, group.count("ok"))
    for rank in RANKS.values():
        most, shares = mean_most(allowance, group.scores("attack"), rank), shares_within(group, rank)
        if most is not None and (p := excess(shares, most)) < EXCESSIVE:
            message = (
                f"Private images rank {'first' if rank == 1 else f'within {rank}'} at a rate of "
                f"{fmean(shares):.3g} over {group.n} images, where the defense's proof allows any attacker "
                f"{most:.3g} (p = {p:.2g})."
            )
            return Flag("beyond-guarantee", "doubt", group.cell, message, group.count("ok"))
    return None


def shares_within(group: CellGroup, rank: int) -> list[float]:
    """Return the share of seeds for which each private image ranks within `rank`.

    A median of ranks over seeds is no single attack's, and no proof bounds it.
    """
    name = figure_name("attack", "rank")
    cells = group.by_image.values()
    return [fmean(float(cell.figures[name] or math.inf) <= rank for cell in of_image) for of_image in cells]


@functools.lru_cache(maxsize=256)
def allowance_of(cell: SweepCell) -> Allowance:
    """Return what the proof of a cell's defense allows; the victim is built only if that depends on it.

    Raises:
        GGLError: the defense, or the victim, can't be loaded here.
    """
    components = Components()
    defense = components.defense(cell)
    layers = _layers(components, cell, defense) if _depends_on_layers(defense) else 1
    return guarantee(defense, layers=layers, round=cell.round, rounds=cell.rounds)


def _depends_on_layers(defense: Defense) -> bool:
    found = [defense.mechanism(Release(layers)) for layers in (1, 4)]
    ratios = {mechanism and mechanism.sensitivity / mechanism.scale for mechanism in found}
    return len(ratios) > 1


def _layers(components: Components, cell: SweepCell, defense: Defense) -> int:
    victim = defense.wrap(components.victim(cell), cell.seed)
    return sum(p.requires_grad for p in victim.parameters())
