"""Specs: what a sweep runs, read from TOML, checked, frozen and hashed."""

import hashlib
import itertools
import json
import math
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr, ValidationError
from pydantic import model_validator as validator

from ggl.base.errors import InputError
from ggl.benchmarks.sweeps.cells import AXES, SweepCell
from ggl.benchmarks.sweeps.components import Components
from ggl.benchmarks.sweeps.refusals import refusals
from ggl.benchmarks.sweeps.spec_axes import Axes, Count, Exclusions, Natural, Strict, Text, Zips
from ggl.benchmarks.sweeps.spec_errors import one_line

__all__ = ["MOST_CELLS", "Spec", "load_spec", "parse_spec"]

MOST_CELLS = 1_000_000

DEFAULTS: dict[str, tuple[Any, ...]] = {
    "victim_weights": (None,),
    "defense": ("none",),
    "attacker": ("adaptive",),
    "distance": ("cosine",),
    "latents": (None,),
    "round": (0,),
    "seed": (0,),
}
"""Axes that may be absent."""

SHARED = (
    *("images", "image_seed", "victim_seed", "ceiling_budget", "split", "fit", "rounds", "precision"),
    "backend",
)
"""Fields that a spec hands to every cell as they are."""


class Spec(Strict):
    """A sweep: the product of its axes and zips, further cells, and what is left out of them.

    `parse_spec` and `load_spec` make one, with errors of one line.

    Attributes:
        images: private images of each data set.
        pack: how many cells are searched side by side at most.
        axes: every axis without a default must be here or in a zip.
        zips: axes that go together, value by value; `zip` in TOML.
        includes: further cells: what is given, with the rest of the axes; `include` in TOML.
        excludes: cells that are skipped; `exclude` in TOML.

    The other attributes are those of every cell.
    """

    name: Text
    description: str = ""
    images: Count
    image_seed: Natural = 0
    victim_seed: Natural = 0
    ceiling_budget: Count = 2000
    split: Text = "test"
    fit: Text | None = None
    rounds: Count = 10_000
    precision: Text = "float32"
    backend: Text = "auto"
    pack: Count = 32
    axes: Axes = Axes()
    zips: Zips = Field(default=(), alias="zip")
    includes: Zips = Field(default=(), alias="include")
    excludes: Exclusions = Field(default=(), alias="exclude")

    _text: str = PrivateAttr(default="")
    _rows: tuple[SweepCell, ...] = PrivateAttr(default=())
    _reasons: dict[SweepCell, str] = PrivateAttr(default_factory=dict)
    _refused: dict[SweepCell, str] | None = PrivateAttr(default=None)

    @validator(mode="after")
    def _expand(self) -> "Spec":
        """Make every cell of the first image, once, so that whatever does not fit is found at once."""
        self._check_axes()
        blocks = [self._factors({}), *(self._factors(further.given()) for further in self.includes)]
        total = self.images * sum(math.prod(map(len, factors)) for factors in blocks)
        if total > MOST_CELLS:
            raise InputError(f"expected at most {MOST_CELLS:,} cells, found {total:,}; make several specs")
        rows: dict[SweepCell, None] = {}
        for number, factors in enumerate(blocks):
            before = len(rows)
            rows |= dict.fromkeys(map(self._row, itertools.product(*factors)))
            if len(rows) == before:
                raise InputError(f"include[{number - 1}]: adds nothing, its cells are there; a typo?")
        self._rows = tuple(rows)
        self._reasons = self._excluded()
        return self

    @property
    def text(self) -> str:
        """The TOML that the spec was read from."""
        return self._text

    @property
    def hash(self) -> str:
        """16 hexadecimal digits of a hash of what the spec means: its cells, skipped ones, and packs."""
        rows = {json.dumps(asdict(row), sort_keys=True): self._reasons.get(row) for row in self._rows}
        content = json.dumps([self.pack, sorted(rows.items())])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def cells(self) -> list[SweepCell]:
        """Return the cells to be run, axes in the order of `AXES`, values as they are written.

        Those that a component refuses are among them: only loading it can tell (`refused`).
        """
        return self._with_images(row for row in self._rows if row not in self._reasons)

    def skipped(self) -> list[tuple[SweepCell, str]]:
        """Return the excluded cells, each with its reason."""
        cells = self._with_images(row for row in self._rows if row in self._reasons)
        return [(cell, self._reasons[replace(cell, image=0)]) for cell in cells]

    def refused(self, components: Components | None = None) -> list[tuple[SweepCell, str]]:
        """Return those of `cells()` that a component refuses, each with the component's reason.

        Loads every component once, into `components` if given, and remembers what came of it. Errors are
        those of `check`.
        """
        if self._refused is None or components is not None:
            rows = [row for row in self._rows if row not in self._reasons]
            self._refused = refusals(rows, components or Components())
        reasons = self._refused
        return [(cell, reasons[row]) for row in reasons for cell in self._with_images([row])]

    def check(self) -> None:
        """Load every component once.

        Raises:
            UnknownNameError: a name that is not known.
            InputError: a component that no cell can use as it is given, or no cell that can be run.
            WeightsError: a prior's weights are missing or damaged.
        """
        self.refused()

    def _check_axes(self) -> None:
        places = dict.fromkeys(self.axes.given(), "axes")
        for number, zipped in enumerate(self.zips):
            where, given = f"zip[{number}]", zipped.given()
            lengths = {axis: len(values) for axis, values in given.items()}
            if len(given) < 2:
                raise InputError(f"{where}: expected two axes or more that go together, found {len(given)}")
            if len(set(lengths.values())) > 1:
                found = ", ".join(f"{length} of {axis}" for axis, length in lengths.items())
                raise InputError(f"{where}: expected lists of equal length, found {found}")
            for axis in given:
                if axis in places:
                    raise InputError(f"{where}.{axis}: the axis is in {places[axis]} already; name it once")
            places |= dict.fromkeys(given, where)
        for axis in AXES:
            if axis not in places and axis not in DEFAULTS:
                raise InputError(f"axes.{axis}: expected values here or in a zip, found none")
        for number, further in enumerate(self.includes):
            if not further.given():
                raise InputError(f"include[{number}]: expected at least one axis, found none")

    def _factors(self, replaced: dict[str, tuple[Any, ...]]) -> list[list[dict[str, Any]]]:
        """Return what the product is taken of: for each axis or zip, the values it puts into a cell."""
        zips = [zipped.given() for zipped in self.zips]
        axes = {**DEFAULTS, **self.axes.given()}
        alone = {axis: axes[axis] for axis in axes if not any(axis in zipped for zipped in zips)} | replaced
        factors = [[{axis: value} for value in values] for axis, values in alone.items()]
        for zipped in zips:
            kept = {axis: values for axis, values in zipped.items() if axis not in replaced}
            steps = dict.fromkeys(zip(*kept.values(), strict=True))
            factors += [[dict(zip(kept, step, strict=True)) for step in steps]] if kept else []
        return sorted(factors, key=lambda factor: AXES.index(next(iter(factor[0]))))

    def _row(self, chosen: Iterable[dict[str, Any]]) -> SweepCell:
        axes = {axis: value for part in chosen for axis, value in part.items()}
        if axes["round"] >= self.rounds:
            raise InputError(f"axes.round: expected rounds below {self.rounds}, found {axes['round']}")
        return SweepCell(**axes, image=0, **{name: getattr(self, name) for name in SHARED})

    def _excluded(self) -> dict[SweepCell, str]:
        reasons: dict[SweepCell, str] = {}
        for number, exclusion in enumerate(self.excludes):
            where, given = f"exclude[{number}]", exclusion.given()
            if not given:
                raise InputError(f"{where}: expected at least one axis beside the reason, found none")
            for axis, values in given.items():
                _check_there(f"{where}.{axis}", values, [getattr(row, axis) for row in self._rows])
            hit = [row for row in self._rows if all(getattr(row, a) in values for a, values in given.items())]
            if not hit:
                raise InputError(f"{where}: it excludes nothing; a typo?")
            reasons = dict.fromkeys(hit, exclusion.reason) | reasons
        if len(reasons) == len(self._rows):
            raise InputError("exclude: it leaves no cell to run")
        return reasons

    def _with_images(self, rows: Iterable[SweepCell]) -> list[SweepCell]:
        return [replace(row, image=image) for row in rows for image in range(self.images)]


def _check_there(where: str, values: Sequence[object], known: Sequence[object]) -> None:
    for value in values:
        if value not in known:
            raise InputError(f"{where}: no cell has {value!r}, so that it excludes nothing; a typo?")


def parse_spec(text: str, what: str) -> Spec:
    """Return the spec of a TOML text.

    Args:
        text: TOML.
        what: the text's name, for messages.

    Raises:
        UnknownNameError: a key or an axis that is not known.
        InputError: what is no TOML, or not as `Spec` describes it; one line that says where.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{what}: expected TOML: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise InputError(f"{what}: expected TOML, found brackets nested too deeply") from error
    try:
        spec = Spec.model_validate(content)
    except ValidationError as error:
        raise one_line(error, what, _known) from error
    spec._text = text
    return spec


def _known(table: str) -> list[str]:
    """Return the keys that a spec, or a table of it, may have."""
    if table == "":
        return [field.alias or name for name, field in Spec.model_fields.items()]
    return [*AXES, *(["reason"] if table == "exclude" else [])]


def load_spec(path: Path) -> Spec:
    """Return the spec in a TOML file; errors as of `parse_spec`, and for a file that can't be read."""
    if path.is_dir():
        raise InputError(f"{path}: expected a spec, a TOML file, found a folder")
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError as error:
        raise InputError(f"{path}: expected a spec, a TOML file, found no such file") from error
    except OSError as error:
        raise InputError(f"{path}: expected a spec, but it can't be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected TOML in UTF-8, found another encoding") from error
    return parse_spec(text, str(path))
