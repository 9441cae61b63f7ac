"""The leaderboard's file: families of defenses, how they train, and how they are attacked."""

import tomllib
from collections.abc import Sequence
from importlib.resources import files as resources
from statistics import fmean
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ggl.base.errors import InputError
from ggl.benchmarks.reproduce.file import NeededFile
from ggl.benchmarks.reproduce.measurements.base import Row
from ggl.benchmarks.reproduce.measurements.trainings import Trainings
from ggl.benchmarks.sweeps.spec import Spec, parse_spec

__all__ = ["NONE", "Board", "Family", "choose", "load_board", "parse_board", "spec_of"]

NONE = "none"
"""No defense: what the others are compared with."""


class _Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Family(_Closed):
    """A defense at several strengths, from weak to strong, and whom it meets."""

    name: str
    strengths: Annotated[list[str], Field(min_length=1)]
    attackers: Annotated[list[str], Field(min_length=1)]


class Untrained(_Closed):
    """A defense that is not on the board, and why."""

    name: str
    why: str


class Board(_Closed):
    """What stands on the leaderboard.

    Attributes:
        within: how much less accurate than without a defense a strength may leave the model, in [0, 1].
        floor: accuracy on validation images that training without a defense must reach: what does not train
            says nothing of what a defense costs.
        images: private ones that are attacked.
        strategies: every attacker searches by each.
        training: fields of `Trainings`, kind and defenses apart.
    """

    name: str
    about: str
    within: Annotated[float, Field(gt=0, lt=1)]
    floor: Annotated[float, Field(ge=0, lt=1)]
    images: Annotated[int, Field(ge=1)]
    strategies: list[str]
    prior: str
    data: str
    budget: Annotated[int, Field(ge=1)]
    ceiling_budget: Annotated[int, Field(ge=1)]
    training: dict[str, Any]
    files: list[NeededFile]
    families: list[Family]
    untrained: list[Untrained] = []

    def trainings(self) -> Trainings:
        """Return the trainings of every strength, no defense first."""
        defenses = [NONE, *(strength for family in self.families for strength in family.strengths)]
        return Trainings(kind="trainings", defense=defenses, **self.training)

    def shortened(self, images: int | None, budget: int | None, rounds: int | None) -> "Board":
        """Return it smaller, to try it: nothing may be claimed then."""
        training = dict(self.training)
        if rounds is not None:
            training |= {"rounds": rounds, "seeds": 1, "learning_rate": training["learning_rate"][:1]}
        change = {
            "images": images or self.images,
            "budget": budget or self.budget,
            "ceiling_budget": min(self.ceiling_budget, budget or self.ceiling_budget),
            "training": training,
            "floor": self.floor if rounds is None else 0.0,
        }
        return self.model_copy(update=change)


def load_board() -> Board:
    """Return the board of this version."""
    text = (resources("ggl.benchmarks") / "leaderboard" / "board.toml").read_text("utf-8")
    return parse_board(text, "board.toml")


def parse_board(text: str, what: str) -> Board:
    """Return the board of a TOML text; `what` names it in messages.

    Raises:
        InputError: it is none.
    """
    try:
        board = Board.model_validate(tomllib.loads(text))
        board.trainings()
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{what}: expected TOML: {str(error).splitlines()[0]}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{what}: {where}: {first['msg'].lower()}") from error
    return board


def choose(board: Board, rows: Sequence[Row]) -> dict[str, str]:
    """Return every family's strongest strength that keeps the accuracy, of those that have one.

    It is chosen by validation images; what the board shows is of test images.

    Raises:
        InputError: no defense at all does not reach the board's floor.
    """
    accuracies: dict[str, list[float]] = {}
    for row in rows:
        if "accuracy" in row.figures:
            accuracies.setdefault(str(row.keys["defense"]), []).append(row.figures["validation"])
    usual = fmean(accuracies[NONE])
    if usual < board.floor:
        raise InputError(
            f"leaderboard {board.name}: expected an accuracy of at least {board.floor:g} without a defense, "
            f"found {usual:.3g}: it did not train, give it more rounds"
        )
    least = usual - board.within
    chosen = {}
    for family in board.families:
        kept = [s for s in family.strengths if s in accuracies and fmean(accuracies[s]) >= least]
        if kept:
            chosen[family.name] = kept[-1]
    return chosen


def spec_of(board: Board, chosen: dict[str, str]) -> Spec:
    """Return the sweep over what was chosen, every defense with its attackers, no defense first."""
    met = [(NONE, "adaptive")]
    met += [
        (chosen[f.name], attacker) for f in board.families if f.name in chosen for attacker in f.attackers
    ]
    axes = {
        "prior": [board.prior],
        "victim": [board.training["victim"]],
        "data": [board.data],
        "strategy": board.strategies,
        "budget": [board.budget],
    }
    lines = [
        f'name = "leaderboard-{board.name}"',
        f"images = {board.images}",
        f"ceiling_budget = {board.ceiling_budget}",
        "[axes]",
        *(f"{name} = {_toml(values)}" for name, values in axes.items()),
        "[[zip]]",
        f"defense = {_toml([defense for defense, _ in met])}",
        f"attacker = {_toml([attacker for _, attacker in met])}",
    ]
    return parse_spec("\n".join(lines) + "\n", f"leaderboard {board.name}")


def _toml(values: Sequence[str | int]) -> str:
    return "[" + ", ".join(f'"{v}"' if isinstance(v, str) else str(v) for v in values) + "]"
