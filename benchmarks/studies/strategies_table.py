"""The comparison of strategies as tables with intervals, from the cells that were run.

    python benchmarks/studies/strategies_table.py

Reads `benchmarks/results/strategies.csv`, a row a search and budget, and writes `strategies.md` beside it.
Intervals are of 95 % over images, each image's seeds averaged first; differences are paired by
image and seed. What was not run stays empty.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ggl.base.files import write_atomically
from ggl.benchmarks.studies.strategies import (
    BUDGETS,
    DEFENSES,
    EQUAL_TIME,
    FINE,
    PATTERN,
    RESIDUAL,
    RESULTS,
    SCALAR,
    labels,
)
from ggl.benchmarks.studies.strategies_cells import Key, Row
from ggl.benchmarks.studies.tables import figure_text, markdown_table, read_csv
from ggl.measures.statistics import Interval, bootstrap_mean

LABELS = labels()

HEADER = """\
# Strategies at equal evaluations

Made by `python benchmarks/studies/strategies.py`, \
then `python benchmarks/studies/strategies_table.py`; the settings are in
the first of the two, every search is a row of `strategies.csv`. Embedded prior, one image a gradient,
cosine distance, adaptive attacker; ten images, three seeds each (ResNet-18: six, one). A cell is PSNR in dB
with its 95 % interval over images, then how many searches' images rank the private one first of a hundred.
"""

PATTERN_HEADINGS = (
    *("victim", "its latents", "strategy", "latents", "evaluations"),
    *("lower loss", "median by", "higher PSNR", "by, dB", "its seconds", "seconds"),
)
PATTERN_PAIRS = (
    *(("", SCALAR, ""), (", free", SCALAR, ", free"), (", free", SCALAR, ", tanh")),
    *(("", RESIDUAL, ""), (", free", RESIDUAL, ", free")),
)
"""The published pattern's latents, and what is set against it."""


CONTRASTS = (
    *((500, SCALAR, 500), (500, SCALAR, 2_000), (1_000, SCALAR, 10_000)),
    *((500, "adam", 500), (2_000, SCALAR, 2_000), (2_000, "adam", 2_000)),
)
"""The residual search's evaluations, and whose result after how many it is set against."""


class Results:
    """Every row, by victim, defense, strategy and budget, images in order and seeds within them."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows: dict[Key, list[Row]] = {}
        for row in sorted(rows, key=lambda row: (row.key, row.image, row.seed)):
            self.rows.setdefault(row.key, []).append(row)

    def values(self, key: Key, name: str) -> NDArray[np.float64]:
        """Return a figure (images, seeds)."""
        rows = self.rows[key]
        seeds = len({row.seed for row in rows})
        return np.array([getattr(row, name) for row in rows], dtype=np.float64).reshape(-1, seeds)


def over_images(values: NDArray[np.float64]) -> Interval:
    """Return the mean over images, with its interval, of values (images, seeds)."""
    return bootstrap_mean(values.mean(1))


def psnr_table(results: Results, victim: str, defense: str) -> Iterator[str]:
    """Yield a table of PSNR and private images ranked first, a row a strategy."""
    rows = {label: [(victim, defense, label, budget) for budget in BUDGETS] for label in LABELS}
    there = {label: keys for label, keys in rows.items() if any(key in results.rows for key in keys)}
    lines = [
        (label, *(_psnr(results, key) if key in results.rows else "" for key in keys), _pace(results, keys))
        for label, keys in there.items()
    ]
    yield f"\n## {victim}, {defense}\n"
    yield markdown_table(("strategy", *(f"{budget:,}" for budget in BUDGETS), "s per 1,000"), lines)


def _psnr(results: Results, key: Key) -> str:
    first = int((results.values(key, "rank") == 1).sum())
    return f"{figure_text(over_images(results.values(key, 'psnr')), '.1f')}, {first}/{len(results.rows[key])}"


def _pace(results: Results, keys: Sequence[Key]) -> str:
    """Return the CPU seconds per 1,000 evaluations of the longest run."""
    rows = results.rows[max((key for key in keys if key in results.rows), key=lambda key: key[-1])]
    return f"{1000 * rows[0].seconds / rows[0].budget:.2f}"


def difference_table(results: Results, budget: int) -> Iterator[str]:
    """Yield each strategy's PSNR less the default's, paired, at one budget."""
    cells = [(victim, defense) for victim, defenses in DEFENSES.items() for defense in defenses]
    yield f"\n## PSNR less that of `{SCALAR}`, dB, {budget:,} evaluations\n"
    yield markdown_table(("strategy", *map(", ".join, cells)), _difference_rows(results, cells, budget))


def _difference_rows(
    results: Results, cells: Sequence[tuple[str, str]], budget: int
) -> Iterator[Sequence[str]]:
    for label in LABELS:
        pairs = [((*cell, label, budget), (*cell, SCALAR, budget)) for cell in cells]
        known = [results.rows.keys() >= set(pair) for pair in pairs]
        if label != SCALAR and any(known):
            texts = [_difference(results, *pair) if k else "" for pair, k in zip(pairs, known, strict=True)]
            yield label, *texts


def _difference(results: Results, key: Key, other: Key) -> str:
    less = results.values(key, "psnr") - results.values(other, "psnr")
    return figure_text(over_images(less), "+.1f")


def residual_lines(results: Results) -> Iterator[str]:
    """Yield how the search that is told residuals compares with others that had more, paired."""
    yield f"\n## `{RESIDUAL}`, PSNR less that of others at other budgets, dB\n"
    cells = [(victim, defense) for victim, defenses in DEFENSES.items() for defense in defenses]
    headings = [f"at {own:,}: `{other}` at {theirs:,}" for own, other, theirs in CONTRASTS]
    lines = []
    for cell in cells:
        pairs = [((*cell, RESIDUAL, own), (*cell, other, theirs)) for own, other, theirs in CONTRASTS]
        there = [results.rows.keys() >= set(pair) for pair in pairs]
        texts = [_difference(results, *pair) if k else "" for pair, k in zip(pairs, there, strict=True)]
        lines.append((", ".join(cell), *texts))
    yield markdown_table(("cell", *headings), lines)


def pattern_lines(results: Results) -> Iterator[str]:
    """Yield within which budget two searches reach what the published pattern ends at."""
    last = BUDGETS[-1]
    yield f"\n## `{SCALAR}` and `{RESIDUAL}` against what `{PATTERN}` ends at after {last:,} evaluations\n"
    yield markdown_table(PATTERN_HEADINGS, _pattern_rows(results, last))


def _pattern_rows(results: Results, last: int) -> Iterator[Sequence[str]]:
    for victim in DEFENSES:
        for its, strategy, rule in PATTERN_PAIRS:
            pattern = (victim, "none", PATTERN + its, last)
            for budget in sorted((*BUDGETS, *FINE)):
                key = (victim, "none", strategy + rule, budget)
                if results.rows.keys() >= {pattern, key}:
                    latents = (its[2:] or "shell:0.001", rule[2:] or "shell:0.001")
                    seconds = (f"{results.values(k, 'seconds').mean():.1f}" for k in (pattern, key))
                    yield (
                        *(victim, latents[0], strategy, latents[1], f"{budget:,}"),
                        *(*_against(results, key, pattern), *seconds),
                    )


def _against(results: Results, key: Key, pattern: Key) -> Sequence[str]:
    """Return for how many images the loss is lower and PSNR higher than the pattern's, and the medians."""
    loss, psnr = (
        results.values(key, name).mean(1) - results.values(pattern, name).mean(1) for name in ("loss", "psnr")
    )
    return (
        f"{int((loss <= 0).sum())} of {loss.size}",
        f"{np.median(loss):+.5f}",
        f"{int((psnr >= 0).sum())} of {psnr.size}",
        f"{np.median(psnr):+.1f}",
    )


def time_lines(results: Results, budget: int = 10_000) -> Iterator[str]:
    """Yield how the contrasts compare with the default at about its CPU time."""
    yield f"\n## Contrasts beside `{SCALAR}` at {budget:,} evaluations, lenet, none\n"
    default = ("lenet", "none", SCALAR, budget)
    contrasts = [("adam", EQUAL_TIME), ("adam", 2_000), ("l-bfgs", 500), ("l-bfgs", 2_000)]
    keys = [default, *(("lenet", "none", *contrast) for contrast in contrasts)]
    lines = []
    for key in keys if default in results.rows else []:
        if key in results.rows:
            seconds = float(results.values(key, "seconds").mean())
            lines.append((key[2], f"{key[3]:,}", f"{seconds:.1f}", _difference(results, key, default)))
    yield markdown_table(("strategy", "evaluations", "s a search", "PSNR less the default's, dB"), lines)


def page(results: Results) -> str:
    """Return the Markdown page."""
    lines = [HEADER]
    for victim, defenses in DEFENSES.items():
        for defense in defenses:
            lines += psnr_table(results, victim, defense)
    for budget in BUDGETS:
        lines += difference_table(results, budget)
    return "\n".join([*lines, *residual_lines(results), *pattern_lines(results), *time_lines(results)]) + "\n"


def main() -> None:
    """Write the page."""
    results = Results(read_csv(RESULTS, Row))
    write_atomically(RESULTS.with_suffix(".md"), page(results).encode())


if __name__ == "__main__":
    main()
