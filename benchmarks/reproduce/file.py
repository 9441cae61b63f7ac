"""The file of a reproduction: sweeps of each scale, claims and their checks, fixed before anything runs."""

import hashlib
import tomllib
from collections.abc import Mapping
from importlib.resources import files as resources
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from ggl.base.errors import InputError
from ggl.base.registry import unknown_name
from ggl.benchmarks.reproduce.claims import LOSS, SUCCESS, Check, check_metrics, check_values, side_of
from ggl.benchmarks.reproduce.measurements.batches import Batches
from ggl.benchmarks.reproduce.measurements.cosines import Cosines
from ggl.benchmarks.reproduce.measurements.influences import Influences
from ggl.benchmarks.reproduce.measurements.spendings import Spendings
from ggl.benchmarks.reproduce.measurements.trainings import Trainings
from ggl.benchmarks.sweeps.records import METRICS as RECORDED

__all__ = [
    "SCALES",
    "Claim",
    "Judged",
    "NeededFile",
    "Reported",
    "Reproduction",
    "Scale",
    "Setting",
    "known_reproductions",
    "load_reproduction",
    "parse_reproduction",
]

SCALES = ("small", "paper")

AnyMeasurement: TypeAlias = Annotated[
    Trainings | Spendings | Cosines | Influences | Batches, Field(discriminator="kind")
]


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Reported(_Closed):
    """A row of the paper, and the groups that stand for it here.

    GGL's rows have an MSE of images in [-1, 1] and a PSNR of peak 1; others a figure by its name, and its
    value in the paper's words where one is known.
    """

    what: str
    mse: float | None = None
    psnr: float | None = None
    lpips: float | None = None
    mse_r: float | None = None
    figure: str | None = None
    value: str | None = None
    small: str | None = None
    paper: str | None = None


class Judged(_Closed):
    """What a claim stands or falls with at a scale, or why it cannot be tested there."""

    checks: list[Check] = []
    not_testable: str | None = None


class Claim(_Closed):
    """What is claimed, and where; or, where `today` is set, what an attacker of today makes of it."""

    id: str
    place: str
    statement: str
    note: str = ""
    today: bool = False
    reported: list[Reported] = []
    small: Judged
    paper: Judged

    def at(self, scale: str) -> Judged:
        """Return how it is judged at a scale."""
        return self.small if scale == "small" else self.paper


class NeededFile(_Closed):
    """A file or folder to be brought, and from where; without an optional one its claims are not tested."""

    path: str
    source: str
    optional: bool = False


class Scale(_Closed):
    """Sweeps, each a spec's table, and measurements; groups by name: what of one has the values given."""

    about: str
    sweeps: dict[str, dict[str, Any]] = {}
    measured: dict[str, AnyMeasurement] = {}
    groups: dict[str, dict[str, str | int | float]] = {}
    files: list[NeededFile] = []
    shortened: dict[str, str] = {}


class Setting(_Closed):
    """How a setting differs from the paper's."""

    what: str
    theirs: str
    small: str
    paper: str


class Reproduction(_Closed):
    """A paper's reproduction, fixed before anything runs."""

    name: str
    title: str
    source: str
    scales: dict[Literal["small", "paper"], Scale]
    claims: list[Claim]
    settings: list[Setting]

    _digest: str = PrivateAttr(default="")

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the file."""
        return self._digest

    def at(self, scale: str) -> Scale:
        """Return a scale by its name.

        Raises:
            UnknownNameError: there is none of that name.
        """
        if scale not in SCALES:
            raise unknown_name("scale", scale, list(SCALES))
        return self.scales["small" if scale == "small" else "paper"]


def known_reproductions() -> list[str]:
    """Return the names of the reproductions that are here."""
    return sorted(path.name.removesuffix(".toml") for path in _folder().iterdir() if _is_one(path.name))


def load_reproduction(name: str) -> Reproduction:
    """Return a reproduction by its name.

    Raises:
        UnknownNameError: there is none of that name.
    """
    known = known_reproductions()
    if name not in known:
        raise unknown_name("reproduction", name, known)
    return parse_reproduction((_folder() / f"{name}.toml").read_text("utf-8"), f"{name}.toml")


def parse_reproduction(text: str, what: str) -> Reproduction:
    """Return the reproduction of a TOML text; `what` names it in messages.

    Raises:
        InputError: it is no TOML, or a table of it is not what it must be.
    """
    try:
        found = Reproduction.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{what}: expected TOML: {str(error).splitlines()[0]}") from error
    except ValidationError as error:
        raise _in_one_line(error, what) from error
    missing = [scale for scale in SCALES if scale not in found.scales]
    if missing:
        raise InputError(f"{what}: scales: expected {' and '.join(SCALES)}, found no {missing[0]}")
    ids = [claim.id for claim in found.claims]
    twice = [name for name in ids if ids.count(name) > 1]
    if twice:
        raise InputError(f"{what}: claims: expected each id once, found {twice[0]!r} twice")
    for claim in found.claims:
        for scale in SCALES:
            _check_claim(claim, scale, found.at(scale), what)
    found._digest = hashlib.sha256(text.encode()).hexdigest()
    return found


def _folder() -> Any:
    return resources("ggl.benchmarks") / "reproduce"


def _is_one(name: str) -> bool:
    return name.endswith(".toml") and not name.startswith(".")


def _in_one_line(error: ValidationError, what: str) -> InputError:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    found = "" if first["type"] == "missing" else f", found {str(first['input'])[:60]!r}"
    return InputError(f"{what}: {where}: {first['msg'].lower()}{found}")


def _check_claim(claim: Claim, scale: str, known: Scale, what: str) -> None:
    where, judged = f"{what}: claim {claim.id}, {scale}", claim.at(scale)
    if bool(judged.checks) == (judged.not_testable is not None):
        raise InputError(f"{where}: expected checks, or why it is not testable, and not both")
    for check in judged.checks:
        check_values(check, where)
    asked = [side_of(side)[0] for check in judged.checks for side in (check.a, check.b) if side is not None]
    asked += [name for check in judged.checks for name in check.trained]
    shown = [row.small if scale == "small" else row.paper for row in claim.reported]
    for group in [*asked, *(name for name in shown if name is not None)]:
        if group not in known.groups:
            raise unknown_name(f"{where}: group", group, sorted(known.groups))
    metrics = {name: _metrics_of(table, known) for name, table in known.groups.items()}
    for check in judged.checks:
        check_metrics(check, where, metrics)
        for side in (check.a, check.b):
            if side is not None and "/" in side and "measured" in known.groups[side_of(side)[0]]:
                raise InputError(f"{where}: expected no source of a measurement's group, found {side!r}")


def _metrics_of(group: Mapping[str, object], scale: Scale) -> tuple[str, ...]:
    """Return what figures a group has: a measurement's own, or a cell's."""
    measurement = scale.measured.get(str(group.get("measured")))
    return (*RECORDED, LOSS, SUCCESS) if measurement is None else measurement.figures
