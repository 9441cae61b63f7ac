"""What a reproduction runs at a scale: its sweeps as specs, and the cells behind every claim."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ggl.base.errors import InputError
from ggl.base.registry import unknown_name
from ggl.benchmarks.reproduce.file import SCALES, Reproduction, Scale
from ggl.benchmarks.sweeps.cells import CELL_FIELDS, SweepCell
from ggl.benchmarks.sweeps.spec import Spec, parse_spec

__all__ = ["Overrides", "ReproductionPlan", "plan_of"]

PLACE = "{files}"
"""Stands in a sweep for the folder of the files that were brought."""


@dataclass(frozen=True)
class Overrides:
    """What makes a run shorter than the reproduction, to try a set-up; None leaves it as it is."""

    images: int | None = None
    budget: int | None = None
    ceiling_budget: int | None = None

    @property
    def any(self) -> bool:
        """Whether something is overridden, so that no verdict may be claimed."""
        return any(value is not None for value in (self.images, self.budget, self.ceiling_budget))


@dataclass(frozen=True)
class ReproductionPlan:
    """What a scale runs.

    Attributes:
        specs: by the sweeps' names, as they are run; `whole` as the reproduction has them.
        groups: the cells behind each group's name.
    """

    reproduction: Reproduction
    scale: str
    specs: Mapping[str, Spec]
    whole: Mapping[str, Spec]
    groups: Mapping[str, tuple[SweepCell, ...]]
    shortened: bool


def plan_of(
    reproduction: Reproduction, scale: str, files: Path | None = None, overrides: Overrides | None = None
) -> ReproductionPlan:
    """Return what a scale runs.

    Args:
        reproduction: the reproduction.
        scale: "small" or "paper".
        files: the folder of what was brought; None leaves "{files}" in names, to look at the cells only.
        overrides: what to run less of.

    Raises:
        UnknownNameError: a scale that is not known.
        InputError: a sweep is no spec, or a group is not the cells of one figure.
    """
    if scale not in SCALES:
        raise unknown_name("scale", scale, list(SCALES))
    wanted = reproduction.at(scale)
    less = overrides or Overrides()
    whole = {name: _spec(reproduction, name, table, files) for name, table in wanted.sweeps.items()}
    specs = whole
    if less.any:
        tables = {name: _shortened(table, wanted, less) for name, table in wanted.sweeps.items()}
        specs = {name: _spec(reproduction, name, table, files) for name, table in tables.items()}
    names = wanted.shortened if less.any else {}
    groups = {
        name: _cells(f"{reproduction.name}.toml: scales.{scale}.groups.{name}", where, specs, names)
        for name, where in wanted.groups.items()
    }
    return ReproductionPlan(reproduction, scale, specs, whole, groups, less.any)


def _spec(reproduction: Reproduction, name: str, table: Mapping[str, Any], files: Path | None) -> Spec:
    content = {"name": f"{reproduction.name}-{name}", **table}
    text = _toml(content)
    if files is not None:
        # A path within a TOML string: JSON's escapes are TOML's.
        text = text.replace(PLACE, json.dumps(str(files))[1:-1])
    return parse_spec(text, f"{reproduction.name}.toml: sweep {name}")


def _toml(content: Mapping[str, Any]) -> str:
    """Return a table of values and of one level of tables as TOML; JSON's scalars and lists are TOML's."""
    plain = [f"{key} = {json.dumps(value)}" for key, value in content.items() if not isinstance(value, dict)]
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    inner = [
        line
        for key, table in tables.items()
        for line in (f"[{key}]", *(f"{k} = {json.dumps(v)}" for k, v in table.items()))
    ]
    return "\n".join([*plain, *inner, ""])


def _shortened(table: Mapping[str, Any], scale: Scale, less: Overrides) -> dict[str, Any]:
    """Return a sweep's table with fewer images and evaluations."""
    axes = dict(table["axes"])
    axes["strategy"] = [scale.shortened.get(name, name) for name in axes["strategy"]]
    if less.budget is not None:
        axes["budget"] = [less.budget]
    top = {"images": less.images, "ceiling_budget": less.ceiling_budget}
    return {**table, **{key: value for key, value in top.items() if value is not None}, "axes": axes}


def _cells(
    what: str, where: Mapping[str, str | int], specs: Mapping[str, Spec], names: Mapping[str, str]
) -> tuple[SweepCell, ...]:
    values = {key: names.get(str(value), value) for key, value in where.items()}
    sweep = str(values.pop("sweep", ""))
    if sweep not in specs:
        raise unknown_name(f"{what}: sweep", sweep, sorted(specs))
    for key in values:
        if key not in CELL_FIELDS:
            raise unknown_name(f"{what}: axis", key, sorted(CELL_FIELDS))
    cells = [c for c in specs[sweep].cells() if all(getattr(c, key) == v for key, v in values.items())]
    kinds = {replace(cell, image=0, seed=0) for cell in cells}
    if len(kinds) != 1:
        raise InputError(
            f"{what}: expected cells that differ in image and seed alone, found {len(kinds)} kinds"
        )
    return tuple(cells)
