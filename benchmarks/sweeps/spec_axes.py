"""Axes as a spec gives them: lists of texts or of integers, checked by pydantic."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ggl.benchmarks.sweeps.cells import AXES

__all__ = ["UNNAMED", "Axes", "Count", "Exclusion", "Exclusions", "Natural", "Strict", "Text", "Zips"]

LARGEST = 2**53
"""The largest integer that every format holds to which a sweep is exported."""

UNNAMED = {"victim_weights": "none", "latents": "own"}
"""What stands for no file, and for the prior's own rule: TOML has no null."""


def _listed(value: object) -> object:
    """Take a list as TOML gives it, and a scalar or a single table as a list of one."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1, le=LARGEST)]
Natural = Annotated[int, Field(ge=0, le=LARGEST)]
Texts = Annotated[tuple[Text, ...], Field(min_length=1), BeforeValidator(_listed)]
Counts = Annotated[tuple[Count, ...], Field(min_length=1), BeforeValidator(_listed)]
Naturals = Annotated[tuple[Natural, ...], Field(min_length=1), BeforeValidator(_listed)]


class Strict(BaseModel):
    """A table of a spec: no other keys, no other kinds, no change."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Axes(Strict):
    """Values of some axes; those that are not given are None."""

    prior: Texts | None = None
    victim: Texts | None = None
    victim_weights: Texts | None = None
    data: Texts | None = None
    defense: Texts | None = None
    attacker: Texts | None = None
    strategy: Texts | None = None
    distance: Texts | None = None
    latents: Texts | None = None
    budget: Counts | None = None
    round: Naturals | None = None
    seed: Naturals | None = None

    def given(self) -> dict[str, tuple[Any, ...]]:
        """Return the values of the axes that are given, as cells hold them, in the order of `AXES`."""
        found = {axis: getattr(self, axis) for axis in AXES}
        return {
            axis: tuple(None if value == UNNAMED.get(axis) else value for value in values)
            for axis, values in found.items()
            if values is not None
        }


class Exclusion(Axes):
    """Cells that have one of the values of every axis given are skipped, for a reason."""

    reason: Text


Zips = Annotated[tuple[Axes, ...], BeforeValidator(_listed)]
Exclusions = Annotated[tuple[Exclusion, ...], BeforeValidator(_listed)]
