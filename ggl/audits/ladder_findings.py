"""What a ladder found: its rungs under every defense, and at which of them the first leak shows."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from ggl.audits.rungs import CLASS_ALONE, Rung
from ggl.base.words import listed

__all__ = ["CORRECTION", "Ladder", "Place"]

Json: TypeAlias = Mapping[str, Any]

CORRECTION = (
    "verdicts are corrected for the number of rungs that were tried under a defense, so that a first leak "
    "may be looked for, and so are the intervals"
)

FIGURES = (
    "attacker",
    "strategy",
    "leak_score",
    "corrected",
    "identification",
    "psnr",
    "evaluations",
    "passes_per_evaluation",
)
"""What a rung says of its cell, beside the verdict."""


@dataclass(frozen=True)
class Place:
    """A rung under one defense.

    Attributes:
        rung: its number, from 1.
        label_rule: where its attacker has the labels from; None where nothing is run.
        same_as: the number of an earlier rung whose attack is the same there.
        reason: why it cannot be tried.
    """

    rung: int
    defense: str
    label_rule: str | None = None
    same_as: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Ladder:
    """The rungs in their order, and the place of each under every defense that it is of."""

    rungs: Sequence[Rung]
    places: Sequence[Place]

    def to_dict(self, results: Sequence[Json]) -> dict[str, object]:
        """Return what `result.json` says of the ladder, of every cell with its rung and its correction."""
        defenses = list(dict.fromkeys(place.defense for place in self.places))
        under = [_found(place, results) for place in self.places]
        return {
            "rungs": [
                {
                    **self._described(number, rung),
                    "control": _control(results) if rung is CLASS_ALONE else None,
                    "under": [found for found in under if found["rung"] == number],
                }
                for number, rung in enumerate(self.rungs, 1)
            ],
            "first_leak": [self._first(d, [u for u in under if u["defense"] == d]) for d in defenses],
            "notes": self.notes(),
            "correction": CORRECTION,
        }

    def notes(self) -> list[str]:
        """Return which rungs search for labels, do what an earlier one does, or cannot be tried, and why."""
        merged: dict[tuple[str, int], list[int]] = {}
        searching: dict[str, list[int]] = {}
        untried: dict[tuple[int, str], list[str]] = {}
        for place in self.places:
            if place.reason is not None:
                untried.setdefault((place.rung, place.reason), []).append(place.defense)
            elif place.same_as is not None:
                merged.setdefault((place.defense, place.same_as), []).append(place.rung)
            elif place.label_rule == "searched":
                searching.setdefault(place.defense, []).append(place.rung)
        return [
            *(
                f"under {d}, {_rungs(numbers)} search{'es' * (len(numbers) == 1)} for labels, which the "
                "gradient does not tell"
                for d, numbers in searching.items()
            ),
            *(
                f"under {d}, {_rungs(numbers)} do{'es' * (len(numbers) == 1)} what rung {first} does"
                for (d, first), numbers in merged.items()
            ),
            *(
                f"under {', '.join(names)}, rung {k}, {self.rungs[k - 1].name}, cannot be tried: {reason}"
                for (k, reason), names in untried.items()
            ),
        ]

    def _described(self, number: int, rung: Rung) -> dict[str, object]:
        on = next((k for k, below in enumerate(self.rungs, 1) if below.name == rung.on), None)
        return {
            "rung": number,
            "name": rung.name,
            "kind": rung.kind,
            "adds": rung.adds,
            "adds_to": on,
            "assumes": rung.assumes(),
        }

    def _first(self, defense: str, under: Sequence[Json]) -> dict[str, object]:
        """Return the rung at which a defense first leaks, and in words what the ladder says of it."""
        tried = [found for found in under if found["cell"] is not None]
        first = next((k for k, found in enumerate(tried) if found["verdict"] == "leaks"), None)
        below = tried[: len(tried) if first is None else first]
        identified = next((found["rung"] for found in below if found["verdict"] == "identifies"), None)
        rung = None if first is None else tried[first]["rung"]
        said = _nothing_said(tried) if first is None else self._leak_said(tried[first:])
        if identified is not None:
            said += f"; private images are identified at rung {identified}, {self.rungs[identified - 1].name}"
        return {
            "defense": defense,
            "rung": rung,
            "identified": identified,
            "all_leak_from": _unbroken(tried),
            "said": f"under {defense} {said}",
        }

    def _leak_said(self, found: Sequence[Json]) -> str:
        """Return what is said of the first rung that leaks and those above it."""
        number = found[0]["rung"]
        rung, silent = self.rungs[number - 1], [f["rung"] for f in found if f["verdict"] != "leaks"]
        said = f"the first leak shows at rung {number}, {rung.name}"
        said += ", which is diagnostic: no realistic rung shows one" if rung.diagnostic else ""
        if silent:
            said += f"; above it {_rungs(silent)} show{'s' * (len(silent) == 1)} none"
            unbroken = _unbroken(found)
            return said if unbroken is None else f"{said}, and from rung {unbroken} on all leak"
        return said if len(found) == 1 else f"{said}; every rung above it leaks too"


def _unbroken(found: Sequence[Json]) -> int | None:
    """Return the least rung from which on all leak, None where the strongest does not."""
    leaking = itertools.takewhile(lambda f: f["verdict"] == "leaks", reversed(found))
    return min((f["rung"] for f in leaking), default=None)


def _found(place: Place, results: Sequence[Json]) -> dict[str, Any]:
    """Return what stands on a rung under one defense."""
    stands = (k for k, c in enumerate(results) if (c["defense"], c["rung"]) == (place.defense, place.rung))
    k = next(stands, None)
    figures = dict.fromkeys(FIGURES) if k is None else {key: results[k][key] for key in FIGURES}
    verdict = None if k is None else results[k]["corrected"]["verdict"]
    return {**asdict(place), "cell": k, "verdict": verdict, **figures}


def _nothing_said(tried: Sequence[Json]) -> str:
    verdicts = {found["verdict"] for found in tried}
    if not verdicts:
        return "no rung could be tried"
    if verdicts == {"withheld"}:
        return "every verdict is withheld"
    unjudged = [found["rung"] for found in tried if found["verdict"] == "undecided"]
    if len(unjudged) == len(tried):
        return "there is no verdict on a leak: fewer than six gradients, or no interval"
    return "no rung shows a leak" + (f"; {_rungs(unjudged)} came to no verdict" if unjudged else "")


def _rungs(numbers: Sequence[int]) -> str:
    """Return numbers of rungs in words."""
    return f"rung{'s' * (len(numbers) > 1)} {listed(numbers)}"


def _control(results: Sequence[Json]) -> dict[str, Any]:
    """Return the figures of the mean of other images of the class; no attack changes them."""
    figures = results[0]["controls"]["class mean"]
    return {key: figures[key] for key in ("identification", "psnr")}
