"""Who finds most under each defense of a reproduction: of all its attackers and searches the strongest."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ggl.audits.verdicts import Verdict
from ggl.benchmarks.report.rows import Bounds, Row, rows_of, strongest
from ggl.benchmarks.reproduce.markdown import NOTHING, bounds_text, markdown_table
from ggl.benchmarks.sweeps.records import Record

__all__ = ["ANCHOR", "leak_text", "share_text", "worst_cases", "worst_counts", "worst_table"]

NONE = "none"
SAID: dict[Verdict, str] = {
    "leaks": "leak",
    "identifies": "only identify the private image",
    "no leak shown": "show no leak",
    "undecided": "are undecided",
}
ANCHOR = "who-finds-most"

LEGEND = """\
Of all attackers and searches that a defense met here, whichever claim they are of, the one that finds most. \
Leak scores, 0 for what the strongest control knows and 1 for all that the prior can say, and verdicts are \
corrected for how many these are; identified: how often the private image is the nearest of its decoys. No \
claim was made of this table before the run."""


def worst_cases(records: Sequence[Record]) -> list[Row]:
    """Return the strongest row of every data set, victim, state and defense, no defense first."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows_of(records, None):
        cell = row.group.cell
        found.setdefault((cell.data, cell.victim, cell.victim_weights or "", cell.defense), []).append(row)
    order = sorted(found, key=lambda key: (key[-1] != NONE, key))
    return [worst for key in order if (worst := strongest(found[key])) is not None]


def worst_counts(rows: Sequence[Row]) -> str:
    """Return how many defenses leak in their worst case, as a sentence; empty where none was attacked."""
    defended = [row for row in rows if row.defense != NONE]
    if not defended:
        return ""
    verdicts = Counter(row.verdict for row in defended)
    counts = ", ".join(f"{verdicts[verdict]} {said}" for verdict, said in SAID.items() if verdict in verdicts)
    who = Counter(row.group.cell.attacker for row in defended).most_common()
    most = f"; most often that is `{who[0][0]}` ({who[0][1]} times)" if len(who) > 1 else ""
    return (
        f"of {len(defended)} defended settings, by the strongest attack on each, {counts}{most} "
        f"([who finds most](#{ANCHOR}))."
    )


def worst_table(rows: Sequence[Row]) -> str:
    """Return the section; empty where nothing was attacked."""
    if not rows:
        return ""
    heads = ("victim", "defense", "who", "with", "leak score, corrected", "identified", "verdict", "n")
    lines = [
        (
            " ".join([row.group.cell.victim, Path(row.group.cell.victim_weights or "").stem]).strip(),
            f"`{row.defense}`",
            row.group.cell.attacker,
            f"`{row.strategy}`, `{row.group.cell.prior}`",
            leak_text(row),
            share_text(row.identification),
            row.verdict,
            str(row.group.n),
        )
        for row in rows
    ]
    return f"## Who finds most\n\n{LEGEND}\n\n{markdown_table(heads, lines)}"


def leak_text(row: Row) -> str:
    """Return a row's leak score with the interval that its verdict rests on."""
    return bounds_text({**row.corrected, "mean": row.leak["mean"]})


def share_text(bounds: Bounds) -> str:
    """Return a share with its interval, where there is one."""
    return NOTHING if bounds["mean"] is None else bounds_text(bounds)
