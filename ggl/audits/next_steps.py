"""What would settle a result, or make it stronger: at most two lines, by what the result itself says."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import scipy

from ggl.audits.verdicts import FEWEST_IMAGES
from ggl.base.errors import GGLError
from ggl.base.words import listed
from ggl.defenses import ATTACKERS, load_defense
from ggl.measures.statistics import CONFIDENCE

__all__ = ["MOST_STEPS", "enough_clients", "next_steps"]

Json: TypeAlias = Mapping[str, Any]

MOST_STEPS = 2
AFFORDABLE = 20
"""Times as many images as there were: what needs more is no step that anyone would take."""

LOOSE = 10
"""Images without which an interval is wide, whatever it shows."""

ALL = "all"
DERIVATIVES = ("adam", "l-bfgs", "basin-cma")
"""Searches by derivatives of prior and victim, which may find more where these are clean."""


def next_steps(result: Json) -> list[str]:
    """Return what would settle an audit's result or make it stronger, two lines at most, or none.

    First the images that undecided defenses lack, then attackers who were not tried on a defense that holds,
    then, of one that leaks, how little an attacker needs to know. Nothing is promised: the number of images
    is the one at which the figures that were found would be decided, if they stayed as they are.

    Args:
        result: the content of an audit's `result.json`.
    """
    if result["truth"] is not None and result["truth"]["scores_withheld"]:
        return []
    steps = [*_images(result), *_ceiling(result), *_attackers(result), *_ladder(result), *_defenses(result)]
    return steps[:MOST_STEPS]


def enough_clients(interval: Json, fewest: int = FEWEST_IMAGES) -> int | None:
    """Return how many clients would put an interval's lower bound above 0, if mean and spread stayed.

    The distance from the mean to the lower bound shrinks as Student's critical value over the root of their
    number does. None where no number would, since the mean is not above 0 or there is no bound.

    >>> enough_clients({"mean": 0.5, "low": -0.2, "high": 1.2, "n": 10})
    18
    """
    mean, low, n = interval["mean"], interval["low"], interval["n"]
    if mean is None or low is None or mean <= 0 or n < 2:
        return None
    spread = (mean - low) / _reach(n)
    count: int = max(n, fewest)
    while spread * _reach(count) >= mean:
        count += 1
        if count > AFFORDABLE * max(n, fewest):
            return None
    return count


def _reach(n: int) -> float:
    """Return Student's critical value over the root of n: half a width, in standard deviations."""
    return float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) / math.sqrt(n)


def _images(result: Json) -> list[str]:
    """Return how many images would decide what is not decided, where images can be added."""
    wanting, needed = [], 0
    for entry in () if result["settings"].get("captured") else result["worst_case"]:
        found = entry["corrected"]
        enough = None if found["leaks"] else enough_clients(found)
        if found["n"] < FEWEST_IMAGES and not found["leaks"]:
            enough = enough or LOOSE
        if enough is not None and enough > found["n"]:
            wanting.append(entry["defense"])
            needed = max(needed, enough)
    return [_images_said(wanting, needed, result)] if wanting else []


def _images_said(defenses: Sequence[str], clients: int, result: Json) -> str:
    batch = result["settings"].get("batch_size", 1)
    count, several = clients * batch, "" if batch == 1 else f" in {clients} batches"
    few = any(entry["corrected"]["n"] < FEWEST_IMAGES for entry in result["worst_case"])
    why = (
        f"fewer than {FEWEST_IMAGES}{' batches' * (batch > 1)} can show no leak, and few leave wide intervals"
        if few
        else "if the leak score and its spread stay as they are"
    )
    return f"about {count} images{several} would settle {listed(defenses)} ({why}): --images {count}"


def _ceiling(result: Json) -> list[str]:
    """Return what to do where enough images leave the leak score without an interval."""
    unclear = [
        entry["defense"]
        for entry in result["worst_case"]
        if entry["corrected"]["n"] >= FEWEST_IMAGES and entry["corrected"]["low"] is None
    ]
    if not unclear:
        return []
    more = "" if result["settings"].get("captured") else ", or more --images"
    return [
        "the prior says hardly more of these images than their class does, which leaves no interval under "
        f"{listed(unclear)}: another --prior (ggl prior-report compares), a larger --ceiling-budget{more}"
    ]


def _attackers(result: Json) -> list[str]:
    """Return which attackers, or searches, were not tried on defenses that show no leak."""
    settings, worst = result["settings"], result["worst_case"]
    asked = settings.get("attackers")
    holding = [e["defense"] for e in worst if e["corrected"]["verdict"] not in ("leaks", "identifies")]
    if asked is None or not holding:
        return []
    options, met = [], []
    met_by = {
        name: {
            who
            for cell in result["results"]
            if cell["defense"] == name
            for who in (cell["attacker"], *cell.get("attackers_alike", ()))
        }
        for name in holding
    }
    untried = [name for name in holding if ALL not in asked and _others(name, met_by[name])]
    if untried:
        options.append("--attacker all")
        met.append(f"by all who know {listed(untried)}")
    if not {cell["strategy"].partition(":")[0] for cell in result["results"]} & {*DERIVATIVES}:
        options += [f"--strategy {name}" for name in [*settings["strategies"], DERIVATIVES[0]]]
        met.append("by derivatives of victim and prior")
    if not options:
        return []
    return [f"before calling it safe, try the attacks {' and '.join(met)} too: {' '.join(options)}"]


def _others(defense: str, met: Collection[str]) -> list[str]:
    """Return the attackers that a defense knows and that it did not meet."""
    try:
        known: Sequence[str] = load_defense(defense).attackers
    except GGLError:  # an object of the caller's, whose name nothing is registered under
        known = ATTACKERS
    return [] if defense == "none" else [name for name in known if name not in met]


def _ladder(result: Json) -> list[str]:
    """Return how to see what a leak takes."""
    leaking = [e["defense"] for e in result["worst_case"] if e["corrected"]["verdict"] == "leaks"]
    if result["ladder"] is not None or not leaking:
        return []
    return [
        f"how little an attacker has to know for the leak under {listed(leaking)}: --ladder, in place of "
        "--attacker and --strategy"
    ]


def _defenses(result: Json) -> list[str]:
    """Return that a defense may be tried, where none was and there is a leak."""
    found = {e["defense"]: e["corrected"]["verdict"] for e in result["worst_case"]}
    if found != {"none": "leaks"} or result["settings"].get("captured"):
        return []
    return ["what a defense changes: --defense none --defense noise:0.1 --defense prune:0.99"]
