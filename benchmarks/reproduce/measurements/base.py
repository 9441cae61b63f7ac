"""A measurement: jobs whose rows of figures depend on the reproduction's file alone."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from ggl.base.errors import InputError
from ggl.base.registry import unknown_name

__all__ = ["Job", "Key", "Limit", "Measurement", "Over", "Places", "Row", "Rows", "file_name", "filled"]

Key: TypeAlias = str | int | float

Over: TypeAlias = Literal["images", "clients", "seeds", "nothing"]
"""What intervals are over: nothing where a figure is computed exactly."""


Limit: TypeAlias = Literal["images", "budget", "ceiling_budget", "rounds"]
"""What a run may be shortened by."""


@dataclass(frozen=True)
class Row:
    """Figures of one image, or of one seed.

    Attributes:
        keys: what they are of: values of the measurement's axes.
        unit: the image's or the seed's number.
        figures: by name; the same on every run.
        timing: seconds by name, which are not.
    """

    keys: Mapping[str, Key]
    unit: int
    figures: Mapping[str, float]
    timing: Mapping[str, float] = field(default_factory=dict)


Rows: TypeAlias = list[Row]


@dataclass(frozen=True)
class Places:
    """Where a measurement finds what was brought and what others kept, and keeps what is its own.

    Attributes:
        folders: by the name that stands in braces for each: "files", and the names of measurements.
        own: the folder of the measurement itself.
        device: of the models.
    """

    folders: Mapping[str, str]
    own: str
    device: str = "cpu"

    def fill(self, text: str) -> str:
        """Return a text with the folders in place of their names in braces."""
        return filled(text, self.folders)


@dataclass(frozen=True)
class Job:
    """What one process computes and one file keeps: `function(*arguments)` returns `Rows`."""

    function: Callable[..., Rows]
    arguments: tuple[Any, ...] = field(default=())


class Measurement(BaseModel):
    """A measurement of one kind, as the reproduction's file has it.

    Attributes:
        kind: its name in the file.
        description: what it is for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    description: str = ""

    over: ClassVar[Over]
    figures: ClassVar[tuple[str, ...]]
    """Every figure that a row may have."""
    pooled: ClassVar[frozenset[str]] = frozenset()
    """Axes over which a group may take several values: their mean is the unit's figure."""

    limits: ClassVar[Mapping[str, Limit]] = {}
    """Its numbers that a shortened run makes smaller, each by what it is compared with."""

    @abstractmethod
    def axes(self) -> Mapping[str, Sequence[Key]]:
        """Return the values of everything that rows are told apart by, the unit aside."""

    @abstractmethod
    def jobs(self, places: Places) -> Mapping[str, Job]:
        """Return its jobs, by names that are file names."""

    def later_jobs(self, _places: Places, _done: Mapping[str, Rows]) -> Mapping[str, Job]:
        """Return those that depend on what `jobs` gave, once all of them are done."""
        return {}

    def shortened(self, most: Mapping[Limit, int | None]) -> "Measurement":
        """Return it with no more of anything than `most` has; None leaves it."""
        change = {
            name: min(getattr(self, name), limit)
            for name, which in self.limits.items()
            if (limit := most[which]) is not None
        }
        return self.model_copy(update=change)

    @abstractmethod
    def units(self) -> int:
        """Return how many images or seeds it has."""

    @property
    def text(self) -> str:
        """What it means, as JSON."""
        return json.dumps(self.model_dump(exclude={"description"}), sort_keys=True)

    def check_group(self, where: str, keys: Mapping[str, Key]) -> None:
        """Refuse values that name no rows, or rows that are not figures of one thing.

        Raises:
            InputError: an axis or a value is unknown, or an axis of several values was left open.
        """
        axes = self.axes()
        for key, value in keys.items():
            if key not in axes:
                raise unknown_name(f"{where}: axis", key, sorted(axes))
            if value not in axes[key]:
                raise unknown_name(f"{where}: {key}", str(value), [str(known) for known in axes[key]])
        for key, values in axes.items():
            if key not in keys and len(values) > 1 and key not in self.pooled:
                raise InputError(f"{where}: expected one {key} of {', '.join(map(str, values))}")


def filled(text: str, folders: Mapping[str, str]) -> str:
    """Return a text with folders in place of their names in braces."""
    for name, folder in folders.items():
        text = text.replace(f"{{{name}}}", folder)
    return text


def file_name(*parts: Key) -> str:
    """Return a name that is a file's on every system, and another for other parts."""
    text = "-".join(map(str, parts))
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in text)[:80]
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
