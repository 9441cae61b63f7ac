"""The comparison of defenses as tables with intervals, from what was run.

    python benchmarks/studies/defenses_table.py

Reads `benchmarks/results/defenses.json` and `defenses-utility.csv` and writes `defenses.md` beside them.
Paired differences have 95 % intervals of `ggl.measures.statistics`, accuracies Student's over seeds; leak
scores have those that they were measured with, BCa bootstraps, since the controls' errors were not kept. What
was not run stays empty.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ggl.audits.attackers import ANALYTIC
from ggl.audits.cells import CLOSED_FORM
from ggl.audits.verdicts import worst_case
from ggl.base.files import write_atomically
from ggl.benchmarks.studies.defenses import (
    BUDGET,
    DEFENSES,
    FEDERATION,
    IMAGES,
    LEAKS,
    SEEDS,
    STRATEGIES,
    Trained,
    read_leaks,
    read_utility,
)
from ggl.benchmarks.studies.tables import figure_text, markdown_table
from ggl.costs.utility import t_interval
from ggl.measures.statistics import bootstrap_mean

DefenseCell: TypeAlias = Mapping[str, Any]

HEADER = f"""\
# Defenses, each with the attackers who know it

Made by `python benchmarks/studies/defenses.py --data PATH`, \
then `python benchmarks/studies/defenses_table.py`; the settings
are in the first of the two. LeNet unless it says MLP, embedded prior, {IMAGES} images, one image a gradient,
cosine distance, {BUDGET} evaluations a search. A cell is the leak score (0: what the class alone gives away,
1: all that the prior can say) with its 95 % interval, how many of {IMAGES} private images rank first of a
hundred, and a letter: **L** leaks, **I** identifies, - no leak shown. Leak scores have BCa bootstrap
intervals, and verdicts are each cell's own, as when they were measured: `docs/statistics.md`.

Accuracy: the same LeNet after {FEDERATION.rounds} rounds of {FEDERATION.clients} clients with
{FEDERATION.batch_size} images each on Fashion-MNIST (IID), {len(SEEDS)} seeds unless it says otherwise;
kept is the difference to no defense, paired by seed. Bytes are of one client's gradient in a round, client
time is in units of the undefended client's.
"""

LETTERS = {"leaks": "**L**", "identifies": "**I**", "no leak shown": "-", "undecided": "?"}
COSTS = ("accuracy", "kept", "kB", "client time")


def _cell(cell: DefenseCell | None) -> str:
    if cell is None:
        return ""
    first = sum(image["rank"] == 1 for image in cell["images"])
    return f"{figure_text(cell['leak_score'])}, {first}, {LETTERS[cell['verdict']]}"


def attackers_of(cells: Sequence[DefenseCell]) -> list[str]:
    """Return the attackers of one defense, in the order in which they were run."""
    return list(dict.fromkeys(cell["attacker"] for cell in cells))


def find(cells: Sequence[DefenseCell], attacker: str, strategy: str) -> DefenseCell | None:
    """Return the cell of an attacker and strategy; the analytic one has no strategy."""
    wanted = (attacker, CLOSED_FORM if attacker == ANALYTIC else strategy)
    return next((cell for cell in cells if (cell["attacker"], cell["strategy"]) == wanted), None)


def leak_table(leaks: Mapping[str, Sequence[DefenseCell]]) -> Iterator[str]:
    """Yield every defense's cells, a row an attacker."""
    yield "\n## What leaks\n"
    rows = [
        (name, attacker, *(_cell(find(cells, attacker, strategy)) for strategy in STRATEGIES))
        for name, cells in leaks.items()
        for attacker in attackers_of(cells)
    ]
    yield markdown_table(("defense", "attacker", *STRATEGIES), rows)


def worst_table(leaks: Mapping[str, Sequence[DefenseCell]], utility: Sequence[Trained]) -> Iterator[str]:
    """Yield each defense's worst case beside what it costs."""
    yield "\n## The worst case, and what the defense costs\n"
    yield markdown_table(("defense", "worst case", "attacker, strategy", *COSTS), _worst_rows(leaks, utility))


def _worst_rows(
    leaks: Mapping[str, Sequence[DefenseCell]], utility: Sequence[Trained]
) -> Iterator[Sequence[str]]:
    plain = {row.seed: row for row in utility if row.defense == "none"}
    for name in DEFENSES:
        if name in leaks:
            (headline,) = worst_case(leaks[name])
            attacker, strategy = headline["attacker"], headline["strategy"]
            cell = find(leaks[name], attacker, strategy)
            cost = _cost([row for row in utility if row.defense == name and row.seed in plain], plain)
            yield name, _cell(cell), f"{attacker}, {strategy}", *cost


def _cost(rows: Sequence[Trained], plain: Mapping[int, Trained]) -> Sequence[str]:
    """Return the cells under `COSTS`, empty ones where no training was run."""
    if not rows:
        return [""] * len(COSTS)
    accuracy = t_interval([100 * row.accuracy for row in rows], 0, 100)
    kept = t_interval([100 * (row.accuracy - plain[row.seed].accuracy) for row in rows])
    time = np.mean([row.client_seconds / plain[row.seed].client_seconds for row in rows])
    size = np.mean([row.client_bytes for row in rows]) / 1000
    notes = "" if len(rows) == len(SEEDS) else f" ({len(rows)} seed{'s' * (len(rows) > 1)})"
    notes += ", diverged" if any(row.diverged for row in rows) else ""
    accurate = figure_text(accuracy, ".1f") + notes
    return accurate, figure_text(kept, "+.1f"), f"{size:.1f}", f"{time:.1f}"


def paired_table(leaks: Mapping[str, Sequence[DefenseCell]]) -> Iterator[str]:
    """Yield how much more the attackers who know a defense recover than the naive one, image by image."""
    yield "\n## What knowing the defense is worth: PSNR less the naive attacker's, dB, paired by image\n"
    rows = [
        (name, attacker, *(_difference(cells, attacker, strategy) for strategy in STRATEGIES))
        for name, cells in leaks.items()
        for attacker in attackers_of(cells)
        if attacker != "naive"
    ]
    yield markdown_table(("defense", "attacker", *STRATEGIES), rows)


def _difference(cells: Sequence[DefenseCell], attacker: str, strategy: str) -> str:
    pair = [find(cells, who, strategy) for who in (attacker, "naive")]
    if None in pair:
        return ""
    one, other = ([image["psnr"] for image in cell["images"]] for cell in pair if cell is not None)
    return figure_text(bootstrap_mean(np.array(one) - np.array(other)), "+.1f")


def page(leaks: Mapping[str, Sequence[DefenseCell]], utility: Sequence[Trained]) -> str:
    """Return the Markdown page."""
    lines = [HEADER, *worst_table(leaks, utility), *leak_table(leaks), *paired_table(leaks)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page."""
    write_atomically(LEAKS.with_suffix(".md"), page(read_leaks(), read_utility()).encode())


if __name__ == "__main__":
    main()
