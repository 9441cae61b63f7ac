"""The leaderboard's page, in Markdown: a row a defense, the least leaking first."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ggl.benchmarks.leaderboard.board import NONE, Board, Family
from ggl.benchmarks.report.rows import Row as StoreRow
from ggl.benchmarks.report.rows import rows_of, strongest
from ggl.benchmarks.reproduce.groups import RowGroup, mean_of
from ggl.benchmarks.reproduce.markdown import bounds_text, every, interval_text, markdown_table
from ggl.benchmarks.reproduce.measurements.base import Row
from ggl.benchmarks.reproduce.worst_cases import leak_text, share_text
from ggl.benchmarks.sweeps.records import Record
from ggl.costs.utility import t_interval
from ggl.measures.statistics import Interval

__all__ = ["HEADS", "Standing", "page_of", "standings", "table_rows"]

HEADS = (
    *("defense", "worst-case leak score", "verdict", "who", "identified"),
    *("accuracy", "kept", "kB a round", "client time"),
)

LEGEND = """\
**Worst-case leak score**: 0 for what the strongest control knows, 1 for all that the prior can say; of all \
attackers and strategies that a defense met the one that finds most, with its 95 % interval over images, \
corrected for how many they are. **Identified**: how often the private image is the nearest of its decoys. \
**Accuracy**: of test images, at the best of the same learning rates by validation images, with Student's \
95 % interval over seeds; **kept**: its difference to no defense, paired by seed. **kB a round**: what a \
client sends; **client time**: in units of the undefended client's."""


@dataclass(frozen=True)
class Standing:
    """A defense's row.

    Attributes:
        family: its name on the board.
        defense: at the strength that was chosen.
        worst: the group that leaks most.
        accuracy, kept: over seeds.
        kilobytes: that a client sends in a round.
        slowdown: a client's time over the undefended one's.
    """

    family: str
    defense: str
    worst: StoreRow
    accuracy: Interval | None
    kept: Interval
    kilobytes: float
    slowdown: float

    @property
    def leak(self) -> float:
        """The worst case's leak score; where it is undefined, infinite."""
        mean = self.worst.leak["mean"]
        return math.inf if mean is None else mean


def standings(chosen: Mapping[str, str], groups: Sequence[StoreRow], rows: Sequence[Row]) -> list[Standing]:
    """Return a row a defense, the least leaking first; no defense has one too."""
    plain = _trainings(rows, NONE)
    usual = mean_of(plain, "client_seconds")
    found = []
    for family, defense in {NONE: NONE, **chosen}.items():
        worst = strongest(row for row in groups if row.group.cell.defense == defense)
        if worst is None:
            continue
        here = _trainings(rows, defense)
        mine, theirs = here.values("accuracy") or {}, plain.values("accuracy") or {}
        size, seconds = mean_of(here, "client_bytes"), mean_of(here, "client_seconds")
        found.append(
            Standing(
                family,
                defense,
                worst,
                mean_of(here, "accuracy"),
                t_interval([mine[seed] - theirs[seed] for seed in mine], -1.0, 1.0),
                math.nan if size is None else size.mean / 1000,
                math.nan if seconds is None or usual is None else seconds.mean / usual.mean,
            )
        )
    return sorted(found, key=lambda standing: standing.leak)


def table_rows(found: Sequence[Standing]) -> list[tuple[str, ...]]:
    """Return the table's rows as text."""
    return [
        (
            f"{standing.family}: `{standing.defense}`" if standing.defense != NONE else "no defense",
            leak_text(standing.worst),
            standing.worst.verdict,
            f"{standing.worst.group.cell.attacker}, `{standing.worst.strategy}`",
            share_text(standing.worst.identification),
            interval_text(standing.accuracy, ".3f"),
            interval_text(standing.kept, "+.3f"),
            f"{standing.kilobytes:.1f}",
            f"{standing.slowdown:.2f}",
        )
        for standing in found
    ]


def page_of(
    board: Board,
    chosen: Mapping[str, str],
    records: Sequence[Record],
    rows: Sequence[Row],
    *,
    commits: Sequence[str],
    shortened: bool,
) -> str:
    """Return the page; the same records and rows give the same text."""
    groups = rows_of(records, None)
    found = standings(chosen, groups, rows)
    images = {record.cell.image for record in records if record.status == "ok"}
    lost = [family for family in board.families if family.name not in chosen]
    seeds = len({row.unit for row in rows if "accuracy" in row.figures})
    parts = [
        "# Leaderboard",
        "**Shortened, to try it: nothing here may be claimed.**" if shortened else "",
        f"Which defense leaks least? Accuracy is within {100 * board.within:g} points of none. {board.about}",
        markdown_table(HEADS, table_rows(found)),
        LEGEND,
        "## Settings",
        "\n".join(
            [
                f"- made by `ggl bench leaderboard --files DIR --out OUT`; code {every(commits)}",
                f"- attacks: prior `{board.prior}`, {len(images)} images of `{board.data}`, {board.budget} "
                f"evaluations each of {', '.join(f'`{s}`' for s in board.strategies)}",
                f"- trainings: {', '.join(f'{key} {value}' for key, value in board.training.items())}; "
                f"{seeds} seeds",
                f"- every strength that was trained: {'; '.join(map(_strengths, board.families))}",
            ]
        ),
        "## All attackers",
        markdown_table(
            ("defense", "attacker", "strategy", "leak score", "corrected", "identified", "n"),
            [
                (
                    f"`{row.defense}`",
                    row.group.cell.attacker,
                    f"`{row.strategy}`",
                    bounds_text(row.leak),
                    bounds_text(row.corrected),
                    share_text(row.identification),
                    str(row.group.n),
                )
                for row in groups
            ],
        ),
        "## Not on the board",
        "\n".join(
            [
                *(f"- {f.name}: none keeps the accuracy; {_accuracies(f.strengths, rows)}" for f in lost),
                *(f"- {one.name}: not trained: {one.why}" for one in board.untrained),
            ]
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _trainings(rows: Sequence[Row], defense: str) -> RowGroup:
    """Return the ended trainings of a defense, those that chose its learning rate left out."""
    ended = (row for row in rows if row.keys["defense"] == defense and "accuracy" in row.figures)
    return RowGroup(tuple(ended), "seeds")


def _strengths(family: Family) -> str:
    return f"{family.name}: " + ", ".join(f"`{strength}`" for strength in family.strengths)


def _accuracies(strengths: Sequence[str], rows: Sequence[Row]) -> str:
    said = []
    for strength in strengths:
        figure = mean_of(_trainings(rows, strength), "accuracy")
        said.append(f"`{strength}` {interval_text(figure, '.3f')}")
    return ", ".join(said)
