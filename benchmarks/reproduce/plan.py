"""What a reproduction runs at a scale: sweeps as specs, measurements, and what is behind every claim."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from ggl.base.errors import InputError
from ggl.base.registry import unknown_name
from ggl.benchmarks.reproduce.file import NeededFile, Reproduction, Scale
from ggl.benchmarks.reproduce.measurements.base import Key, Limit, Measurement, filled
from ggl.benchmarks.sweeps.cells import CELL_FIELDS, SweepCell
from ggl.benchmarks.sweeps.spec import Spec, parse_spec

__all__ = ["FILES", "MEASURED", "Overrides", "ReproductionPlan", "folder_names", "plan_of"]

FILES = "files"
"""Stands in braces for the folder of the files that were brought; a measurement's name for its own."""

MEASURED = "measured"
"""The folder of all measurements' folders."""


@dataclass(frozen=True)
class Overrides:
    """What makes a run shorter than the reproduction, to try a set-up; None leaves it as it is."""

    images: int | None = None
    budget: int | None = None
    ceiling_budget: int | None = None
    rounds: int | None = None

    @property
    def most(self) -> dict[Limit, int | None]:
        """Everything by its name."""
        return {
            "images": self.images,
            "budget": self.budget,
            "ceiling_budget": self.ceiling_budget,
            "rounds": self.rounds,
        }

    @property
    def any(self) -> bool:
        """Whether something is overridden, so that no verdict may be claimed."""
        return any(value is not None for value in self.most.values())


RowKeys: TypeAlias = Mapping[str, Key]


@dataclass(frozen=True)
class ReproductionPlan:
    """What a scale runs.

    Attributes:
        specs: by the sweeps' names, as they are run; `whole` as the reproduction has them.
        hashes: of the specs, wherever files and folders lie.
        measured: measurements by name, in the order in which they are made.
        folders: what the names in braces stand for: "files", and every measurement's folder.
        groups: the cells behind each group's name; `row_groups` the measurement and the values of its axes.
        missing: why a group has no figures: the optional file that was not brought.
    """

    reproduction: Reproduction
    scale: str
    specs: Mapping[str, Spec]
    whole: Mapping[str, Spec]
    hashes: Mapping[str, str]
    measured: Mapping[str, Measurement]
    folders: Mapping[str, str]
    groups: Mapping[str, tuple[SweepCell, ...]]
    row_groups: Mapping[str, RowKeys]
    missing: Mapping[str, str]
    shortened: bool


def plan_of(
    reproduction: Reproduction,
    scale: str,
    files: Path | None = None,
    overrides: Overrides | None = None,
    *,
    out: Path | None = None,
    lacking: Collection[NeededFile] = (),
) -> ReproductionPlan:
    """Return what a scale runs.

    Args:
        reproduction: the reproduction.
        scale: "small" or "paper".
        files: the folder of what was brought; None leaves "{files}" in names, to look at the cells only.
        overrides: what to run less of.
        out: the run's folder; None leaves measurements' names in braces, likewise.
        lacking: optional files that were not brought: what needs one is left out.

    Raises:
        UnknownNameError: a scale that is not known.
        InputError: a sweep is no spec, or a group is not the figures of one thing.
    """
    wanted = reproduction.at(scale)
    less = overrides or Overrides()
    measured = {name: m.shortened(less.most) for name, m in wanted.measured.items()}
    folders = {} if files is None else {FILES: str(files)}
    if out is not None:
        folders |= {name: str(out / MEASURED / folder) for name, folder in folder_names(measured).items()}
    left = _left_out(wanted, lacking)
    plain = {name: _spec(reproduction, name, table, {}) for name, table in wanted.sweeps.items()}
    whole = {name: _spec(reproduction, name, table, folders) for name, table in wanted.sweeps.items()}
    specs = whole
    if less.any:
        tables = {name: _shortened(table, wanted, less) for name, table in wanted.sweeps.items()}
        plain = {name: _spec(reproduction, name, table, {}) for name, table in tables.items()}
        specs = {name: _spec(reproduction, name, table, folders) for name, table in tables.items()}
    names = wanted.shortened if less.any else {}
    groups: dict[str, tuple[SweepCell, ...]] = {}
    row_groups: dict[str, RowKeys] = {}
    for name, where in wanted.groups.items():
        what = f"{reproduction.name}.toml: scales.{scale}.groups.{name}"
        if MEASURED in where:
            row_groups[name] = _row_group(what, where, measured)
        else:
            groups[name] = _cells(what, where, specs, names, folders)
    return ReproductionPlan(
        reproduction,
        scale,
        specs={name: spec for name, spec in specs.items() if name not in left},
        whole={name: spec for name, spec in whole.items() if name not in left},
        hashes={name: spec.hash for name, spec in plain.items() if name not in left},
        measured={name: m for name, m in measured.items() if name not in left},
        folders=folders,
        groups=groups,
        row_groups=row_groups,
        missing={
            name: left[part]
            for name, where in wanted.groups.items()
            if (part := str(where.get("sweep") or where.get(MEASURED))) in left
        },
        shortened=less.any,
    )


def folder_names(measured: Mapping[str, Measurement]) -> dict[str, str]:
    """Return a folder's name for every measurement: another where it, or what it builds on, is another."""
    found: dict[str, str] = {}
    for name, measurement in measured.items():
        content = filled(measurement.text, found)
        found[name] = f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    return found


def _left_out(scale: Scale, lacking: Collection[NeededFile]) -> dict[str, str]:
    """Return the sweeps and measurements that cannot run, each with the file that it lacks."""
    reasons = {f"{{{FILES}}}/{needed.path}": f"needs {needed.path}: {needed.source}" for needed in lacking}
    parts = {name: measurement.text for name, measurement in scale.measured.items()}
    parts |= {name: json.dumps(table) for name, table in scale.sweeps.items()}
    left: dict[str, str] = {}
    for name, text in parts.items():
        here = {**reasons, **{f"{{{other}}}": reason for other, reason in left.items()}}
        reason = next((reason for place, reason in here.items() if place in text), None)
        if reason is not None:
            left[name] = reason
    return left


def _row_group(what: str, where: Mapping[str, Key], measured: Mapping[str, Measurement]) -> RowKeys:
    source = str(where[MEASURED])
    if source not in measured:
        raise unknown_name(f"{what}: measurement", source, sorted(measured))
    measured[source].check_group(what, {key: value for key, value in where.items() if key != MEASURED})
    return where


def _spec(
    reproduction: Reproduction, name: str, table: Mapping[str, Any], folders: Mapping[str, str]
) -> Spec:
    content = {"name": f"{reproduction.name}-{name}", **table}
    # A path within a TOML string: JSON's escapes are TOML's.
    places = {place: json.dumps(folder)[1:-1] for place, folder in folders.items()}
    return parse_spec(filled(_toml(content), places), f"{reproduction.name}.toml: sweep {name}")


def _toml(content: Mapping[str, Any]) -> str:
    """Return values, tables of them, and lists of tables as TOML; JSON's scalars and lists are TOML's."""
    lines = [line for key, value in content.items() if not _is_table(value) for line in _pairs({key: value})]
    for key, value in content.items():
        if isinstance(value, dict):
            lines += [f"[{key}]", *_pairs(value)]
        elif _is_table(value):
            lines += [line for table in value for line in (f"[[{key}]]", *_pairs(table))]
    return "\n".join([*lines, ""])


def _is_table(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict) for v in value))


def _pairs(table: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {json.dumps(value)}" for key, value in table.items()]


def _shortened(table: Mapping[str, Any], scale: Scale, less: Overrides) -> dict[str, Any]:
    """Return a sweep's table with fewer images and evaluations."""
    axes = dict(table["axes"])
    axes["strategy"] = [scale.shortened.get(name, name) for name in axes["strategy"]]
    if less.budget is not None:
        axes["budget"] = [less.budget]
    top = {"images": less.images, "ceiling_budget": less.ceiling_budget}
    return {**table, **{key: value for key, value in top.items() if value is not None}, "axes": axes}


def _cells(
    what: str,
    where: Mapping[str, Key],
    specs: Mapping[str, Spec],
    names: Mapping[str, str],
    folders: Mapping[str, str],
) -> tuple[SweepCell, ...]:
    values = {key: names.get(str(value), value) for key, value in where.items()}
    values = {key: filled(v, folders) if isinstance(v, str) else v for key, v in values.items()}
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
