"""The comparison of strategies as tables with intervals, from the cells that were run.

    python benchmarks/strategies_table.py runs/strategies

Writes `benchmarks/results/strategies.csv`, a row a search and budget, and `strategies.md` beside it.
Intervals are 95 % bootstraps over images, each image's seeds averaged first; differences are paired by
image and seed. What was not run stays empty.
"""

import argparse
import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from strategies import BUDGETS, DEFAULT, DEFENSES, LONGEST, PATTERN

from ggl.base.weights import write_atomically
from ggl.statistics import Interval, bootstrap_mean

RESULTS = Path(__file__).parent / "results"
Key: TypeAlias = tuple[str, str, str, int]
"""Victim, defense, strategy, budget."""
Course: TypeAlias = list[list[float]]

HEADER = """\
# Strategies at equal evaluations

Made by `python benchmarks/strategies.py --out runs/strategies`, then
`python benchmarks/strategies_table.py runs/strategies`; the settings are in the first of the two, every
search is a row of `strategies.csv`. Embedded prior, one image a gradient, cosine distance, adaptive
attacker; ten images, three seeds each.
"""


class Results:
    """Every row, by victim, defense, strategy and budget, images in order and seeds within them."""

    def __init__(self, folder: Path) -> None:
        self.rows: dict[Key, list[dict[str, Any]]] = {}
        self.courses: dict[Key, list[Course]] = {}
        for path in sorted(folder.glob("*.json")):
            cell = json.loads(path.read_text())
            for row in cell["rows"]:
                key = (row["victim"], row["defense"], row["strategy"], row["budget"])
                self.rows.setdefault(key, []).append(row)
                self.courses[key] = cell["courses"]

    def values(self, key: Key, name: str) -> NDArray[np.float64]:
        """Return a figure (images, seeds)."""
        rows = self.rows[key]
        seeds = 1 + max(int(row["seed"]) for row in rows)
        return np.array([row[name] for row in rows], dtype=np.float64).reshape(-1, seeds)

    def write_csv(self, path: Path) -> None:
        """Write every row."""
        rows = [row for key in sorted(self.rows) for row in self.rows[key]]
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def over_images(values: NDArray[np.float64]) -> Interval:
    """Return the mean over images, with its interval, of values (images, seeds)."""
    return bootstrap_mean(values.mean(1))


def _text(interval: Interval, form: str = ".1f") -> str:
    return f"{interval.mean:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def psnr_table(results: Results, victim: str, defense: str) -> Iterator[str]:
    """Yield a table of PSNR and private images ranked first, a row a strategy."""
    yield f"\n## {victim}, {defense}\n"
    yield f"| strategy | {' | '.join(f'{budget:,}' for budget in BUDGETS)} | s per 1,000 |"
    yield f"|---|{'---|' * len(BUDGETS)}---|"
    for strategy in LONGEST:
        keys = [(victim, defense, strategy, budget) for budget in BUDGETS]
        if any(key in results.rows for key in keys):
            cells = [_psnr(results, key) if key in results.rows else "" for key in keys]
            yield f"| {strategy} | {' | '.join(cells)} | {_pace(results, keys)} |"


def _psnr(results: Results, key: Key) -> str:
    first = int((results.values(key, "rank") == 1).sum())
    return f"{_text(over_images(results.values(key, 'psnr')))}, {first}/{len(results.rows[key])}"


def _pace(results: Results, keys: Sequence[Key]) -> str:
    """Return the CPU seconds per 1,000 evaluations of the longest run."""
    rows = results.rows[max((key for key in keys if key in results.rows), key=lambda key: key[-1])]
    return f"{1000 * rows[0]['seconds'] / rows[0]['evaluations']:.2f}"


def difference_table(results: Results, budget: int) -> Iterator[str]:
    """Yield each strategy's PSNR less the default's, paired, at one budget."""
    cells = [(victim, defense) for victim, defenses in DEFENSES.items() for defense in defenses]
    yield f"\n## PSNR less that of `{DEFAULT}`, dB, {budget:,} evaluations\n"
    yield f"| strategy | {' | '.join(', '.join(cell) for cell in cells)} |"
    yield f"|---|{'---|' * len(cells)}"
    for strategy in LONGEST:
        pairs = [((*cell, strategy, budget), (*cell, DEFAULT, budget)) for cell in cells]
        known = [all(key in results.rows for key in pair) for pair in pairs]
        if strategy == DEFAULT or not any(known):
            continue
        texts = [
            _difference(results, *pair) if there else "" for pair, there in zip(pairs, known, strict=True)
        ]
        yield f"| {strategy} | {' | '.join(texts)} |"


def _difference(results: Results, key: Key, other: Key) -> str:
    return _text(over_images(results.values(key, "psnr") - results.values(other, "psnr")), "+.1f")


def evaluations_to(course: Course, loss: float) -> float:
    """Return the evaluations after which a course first lay at or below a loss, infinite if never."""
    return next((evaluations for evaluations, best in course if best <= loss), np.inf)


def pattern_lines(results: Results, budget: int = 25_000) -> Iterator[str]:
    """Yield how soon the default reaches the published pattern's final loss, per victim."""
    yield f"\n## Evaluations of `{DEFAULT}` to the final loss of `{PATTERN}` at {budget:,}\n"
    for victim in DEFENSES:
        key, default = ((victim, "none", name, budget) for name in (PATTERN, DEFAULT))
        if key not in results.rows or default not in results.rows:
            continue
        losses = results.values(key, "loss")
        needed = np.array(
            [evaluations_to(c, loss) for c, loss in zip(results.courses[default], losses.flat, strict=True)]
        ).reshape(losses.shape)
        median = float(np.median(np.median(needed, axis=1)))
        yield (
            f"- {victim}: median over images {median:,.0f} of {budget:,} ({median / budget:.1%}); "
            f"reached in {int(np.isfinite(needed).sum())} of {needed.size} searches"
        )


def time_lines(results: Results, budget: int = 10_000) -> Iterator[str]:
    """Yield how the default compares with Adam in the same CPU time, per victim."""
    yield f"\n## `adam` in the CPU time of `{DEFAULT}` at {budget:,} evaluations\n"
    for victim in DEFENSES:
        default = (victim, "none", DEFAULT, budget)
        if default not in results.rows:
            continue
        seconds = float(results.values(default, "seconds").mean())
        within = [
            key
            for mark in BUDGETS
            if (key := (victim, "none", "adam", mark)) in results.rows
            and results.values(key, "seconds").mean() <= seconds
        ]
        for key in within[-1:]:
            yield (
                f"- {victim}: {seconds:.1f} s a search; Adam's {key[-1]:,} evaluations take "
                f"{results.values(key, 'seconds').mean():.1f} s and end "
                f"{_difference(results, key, default)} dB from the default"
            )


def page(results: Results) -> str:
    """Return the Markdown page."""
    lines = [HEADER]
    for victim, defenses in DEFENSES.items():
        for defense in defenses:
            lines += psnr_table(results, victim, defense)
    for budget in BUDGETS:
        lines += difference_table(results, budget)
    return "\n".join([*lines, *pattern_lines(results), *time_lines(results)]) + "\n"


def main() -> None:
    """Read the command line and write both files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of the cells that benchmarks/strategies.py wrote")
    results = Results(parser.parse_args().folder)
    RESULTS.mkdir(exist_ok=True)
    results.write_csv(RESULTS / "strategies.csv")
    write_atomically(RESULTS / "strategies.md", page(results).encode())


if __name__ == "__main__":
    main()
