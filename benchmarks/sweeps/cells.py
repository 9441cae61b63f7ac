"""A cell: one private image under one defense, attacker and strategy; packs of cells run together."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TypeAlias

__all__ = ["AXES", "CELL_FIELDS", "Pack", "SweepCell", "packs_of", "together"]

AXES = (
    *("prior", "victim", "victim_weights", "data", "defense", "attacker", "strategy"),
    *("distance", "latents", "budget", "round", "seed"),
)
"""What a sweep varies; beside them, every cell has its image."""


@dataclass(frozen=True)
class SweepCell:
    """Everything that the figures of a cell follow from, code and files apart.

    Attributes:
        defense: with its options, as `ggl.load_defense` reads it; prior, victim and strategy likewise.
        victim_weights: a file, "FILE" or "FILE,key=ENTRY", or None for the victim as `victim_seed` draws it.
        latents: the rule by which searched coordinates become latents, or None for the prior's own.
        budget: objective evaluations of the search.
        round: rounds of training before the observed one, of `rounds`.
        seed: of the search, the client's noise and the controls.
        image: which of the `images` private ones, which `image_seed` draws from the data.
        ceiling_budget: objective evaluations of the private image's own inversion.
    """

    prior: str
    victim: str
    victim_weights: str | None
    data: str
    defense: str
    attacker: str
    strategy: str
    distance: str
    latents: str | None
    budget: int
    round: int
    seed: int
    image: int
    images: int
    image_seed: int
    victim_seed: int
    ceiling_budget: int
    split: str
    fit: str | None
    rounds: int
    precision: str
    backend: str

    @property
    def id(self) -> str:
        """Return 16 hexadecimal digits of a hash of all fields."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


Pack: TypeAlias = tuple[SweepCell, ...]
"""Cells that differ in their image alone and are searched side by side. Which cells share a pack follows
from the spec and not from what is done already, so that figures do not depend on where a run was killed."""


def together(cell: SweepCell) -> SweepCell:
    """Return what the cells of one pack share."""
    return replace(cell, image=0)


def packs_of(cells: Iterable[SweepCell], most: int) -> list[Pack]:
    """Return packs of at most `most` cells, in the order in which cells come."""
    groups: dict[SweepCell, list[SweepCell]] = {}
    for cell in cells:
        groups.setdefault(together(cell), []).append(cell)
    return [part for group in groups.values() for part in _cut(group, most)]


def _cut(cells: Sequence[SweepCell], most: int) -> list[Pack]:
    return [tuple(cells[start : start + most]) for start in range(0, len(cells), most)]


CELL_FIELDS = tuple(field.name for field in fields(SweepCell))
