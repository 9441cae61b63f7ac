"""How often every interval that a report prints covers what it should, by simulation.

    python benchmarks/studies/coverage.py

Written down before it was run: audits of n = 6, 10, 20 and 50 clients, drawn with replacement from a
population whose figure is known; 2,000 audits a line, of ρ 1,000. Populations are the 200 measured clients of
`clients.py` (PSNR, squared error, SSIM, percentile of the rank, and the leak score with its choice of the
strongest control), and made ones: normal, skewed (lognormal of shape 0.5 and 1), 30 % of a second mode, 60 %
ties (a PSNR at its cap of 100 dB). Shares are computed, not simulated: by enumeration. The interval in use is
the product's own code; beside it stand Student's (for ratios Fieller's with Student's quantile) and what was
used before: BCa with 999 resamples, Wilson's, the percentile interval of ρ (499 resamples, 300 audits). A
line's coverage has a standard error of 0.5 points. An interval that is undefined covers: it claims nothing;
how often it is so stands beside.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom, spearmanr  # type: ignore[attr-defined]

from ggl.base.files import write_atomically
from ggl.base.random import numpy_stream
from ggl.benchmarks.studies.clients import SEED, measured
from ggl.benchmarks.studies.other_intervals import Bounds, Values, bca, student, wilson
from ggl.benchmarks.studies.tables import markdown_table
from ggl.measures.rank_correlation import rank_correlation, weighted_spearman
from ggl.measures.statistics import ratio_bounds, share, share_of_clusters

OneDraw: TypeAlias = Callable[[np.random.Generator, tuple[int, int]], Values]
Draw: TypeAlias = Callable[[np.random.Generator, tuple[int, int]], tuple[Values, Values]]

SIZES, AUDITS, CHUNK = (6, 10, 20, 50), 2000, 200
FORMER_OF_RHO, FORMER_AUDITS = 499, 300
CONTROLS = ("sibling", "noise", "prior", "class_mean")
SHARES = (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
ROWS = Path(__file__).parents[1] / "results" / "coverage.json"
TABLE = ROWS.with_suffix(".md")


def of_means() -> dict[str, tuple[Draw, float]]:
    """Return populations of values, and their means."""

    def made(draw: OneDraw) -> Draw:
        return lambda random, shape: (draw(random, shape), np.ones(shape))

    def finite(values: Values) -> tuple[Draw, float]:
        return made(lambda random, shape: random.choice(values, shape)), float(values.mean())

    found: dict[str, tuple[Draw, float]] = {
        "normal": (made(lambda r, s: r.normal(size=s)), 0.0),
        "lognormal 0.5": (made(lambda r, s: np.exp(0.5 * r.normal(size=s))), float(np.exp(0.125))),
        "lognormal 1": (made(lambda r, s: np.exp(r.normal(size=s))), float(np.exp(0.5))),
        "two modes": (
            made(
                lambda r, s: np.where(r.random(s) < 0.3, 25 + 3 * r.normal(size=s), 12 + 2 * r.normal(size=s))
            ),
            15.9,
        ),
        "ties": (made(lambda r, s: np.where(r.random(s) < 0.6, 100.0, 40 + 10 * r.normal(size=s))), 76.0),
    }
    for defense, columns in measured().items():
        for name in ("psnr", "attack", "ssim"):
            found[f"{'squared error' if name == 'attack' else name}, {defense}"] = finite(columns[name])
    return found


def of_ratios() -> dict[str, tuple[Draw, float]]:
    """Return populations of a control's error less the attack's, and less the ceiling's, and their ratio."""
    found: dict[str, tuple[Draw, float]] = {}
    for defense, columns in measured().items():
        controls = np.stack([columns[name] for name in CONTROLS])
        attack, ceiling = columns["attack"], columns["ceiling"]
        best = controls[controls.mean(1).argmin()]

        def draw(
            random: np.random.Generator,
            shape: tuple[int, int],
            controls: Values = controls,
            attack: Values = attack,
            ceiling: Values = ceiling,
        ) -> tuple[Values, Values]:
            who = random.integers(len(attack), size=shape)
            strongest = controls[:, who].mean(2).argmin(0)
            control = controls[strongest[:, None], who]
            return control - attack[who], control - ceiling[who]

        found[f"leak score, {defense}"] = (draw, float((best - attack).sum() / (best - ceiling).sum()))
    return found


def simulated(populations: Mapping[str, tuple[Draw, float]]) -> list[dict[str, Any]]:
    """Return coverage and median width of the intervals of means and ratios."""
    rows = []
    for name, (draw, truth) in populations.items():
        for n in SIZES:
            random = numpy_stream(SEED, "coverage", name, n)
            bounds: dict[str, list[Bounds]] = {"used": [], "student": [], "former": []}
            for _ in range(AUDITS // CHUNK):
                tops, bottoms = draw(random, (CHUNK, n))
                spread = np.ptp(tops, axis=1) > 0
                many, constant = (tops[spread], bottoms[spread]), tops[~spread].mean(1)
                with np.errstate(divide="ignore", invalid="ignore"):
                    found = {
                        "used": ratio_bounds(*many),
                        "student": student(*many),
                        "former": bca(*many, random),
                    }
                for method, (low, high) in found.items():
                    bounds[method].append((np.append(low, constant), np.append(high, constant)))
            rows.append({"figure": name, "n": n, "truth": truth, **rated(bounds, truth)})
            print(rows[-1], flush=True)
    return rows


def rated(bounds: Mapping[str, list[Bounds]], truth: float) -> dict[str, Any]:
    """Return each method's coverage, median width and share of undefined intervals."""
    found: dict[str, Any] = {}
    for method, pairs in bounds.items():
        low, high = (np.concatenate([pair[k] for pair in pairs]) for k in (0, 1))
        undefined = np.isnan(low) | np.isnan(high)
        slack = 1e-12 * max(1.0, abs(truth))
        covered = undefined | ((low <= truth + slack) & (truth - slack <= high))
        widths = (high - low)[~undefined]
        found[method] = {
            "coverage": float(covered.mean()),
            "width": float(np.median(widths)) if widths.size else None,
            "undefined": float(undefined.mean()),
        }
    return found


def of_shares() -> list[dict[str, Any]]:
    """Return the coverage of counts' intervals, by enumeration."""
    rows = []
    grid = np.linspace(0.001, 0.999, 999)
    for n in SIZES:
        counts = np.arange(n + 1)
        used = [share(int(k), n) for k in counts]
        bounds = {
            "used": (np.array([i.low for i in used]), np.array([i.high for i in used])),
            "former": wilson(counts / n, n),
        }
        for p in (*SHARES, "mean", "least"):
            row: dict[str, Any] = {"figure": f"share {p}", "n": n}
            for method, (low, high) in bounds.items():
                at = grid if isinstance(p, str) else np.array([p])
                inside = (low[:, None] <= at + 1e-12) & (at - 1e-12 <= high[:, None])
                covered = (binom.pmf(counts[:, None], n, at) * inside).sum(0)
                found = covered.min() if p == "least" else covered.mean()
                row[method] = {"coverage": float(found), "width": None, "undefined": 0.0}
            rows.append(row)
    return rows


def of_clusters() -> list[dict[str, Any]]:
    """Return the coverage of mean shares of clients: percentiles of ranks, and batches."""

    def percentiles(values: Values) -> OneDraw:
        return lambda random, shape: random.choice(values, shape)

    def batches(size: int, a: float, b: float) -> OneDraw:
        return lambda random, shape: random.binomial(size, random.beta(a, b, shape)) / size

    found: dict[str, tuple[OneDraw, float]] = {}
    for defense, columns in measured().items():
        values = (columns["rank"] - 1) / columns["decoys"]
        found[f"percentile, {defense}"] = percentiles(values), float(values.mean())
    for size, a, b in ((4, 0.8, 1.2), (4, 1.6, 0.4), (8, 0.4, 1.6), (1, 1.0, 9.0)):
        found[f"batches of {size}, beta({a}, {b})"] = batches(size, a, b), a / (a + b)
    rows = []
    for name, (draw, truth) in found.items():
        for n in SIZES:
            values = draw(numpy_stream(SEED, "coverage", name, n), (AUDITS, n))
            used = [share_of_clusters(row) for row in values]
            bounds = {
                "used": [(np.array([i.low for i in used]), np.array([i.high for i in used]))],
                "former": [wilson(values.mean(1), n)],
            }
            rows.append({"figure": name, "n": n, "truth": truth, **rated(bounds, truth)})
    return rows


def points(
    random: np.random.Generator, n: int, rho: float, levels: float
) -> tuple[Values, Values, NDArray[np.int64]]:
    """Return predictions and measurements of n images at five levels, and whose they are."""
    image = random.normal(size=(n, 1))
    other = rho * image + (1 - rho**2) ** 0.5 * random.normal(size=(n, 1))
    level = levels * np.linspace(-1, 1, 5)
    measured_at = other + level + 0.3 * random.normal(size=(n, 5))
    return (image + level).ravel(), measured_at.ravel(), np.repeat(np.arange(n), 5)


def of_correlations() -> list[dict[str, Any]]:
    """Return the coverage of rank correlations' intervals."""
    rows = []
    for levels in (0.3, 1.5):
        for rho in (0.0, 0.6, 0.9):
            random = numpy_stream(SEED, "coverage", "rho", rho, levels)
            many = points(random, 4000, rho, levels)
            truth = float(spearmanr(many[0], many[1]).statistic)
            for n in SIZES:
                used, former = [], []
                for k in range(AUDITS // 2):
                    drawn = points(random, n, rho, levels)
                    found = rank_correlation(*drawn)
                    used.append((found.low, found.high))
                    if k < FORMER_AUDITS and n < SIZES[-1]:
                        counts = random.multinomial(n, np.full(n, 1 / n), FORMER_OF_RHO)[:, drawn[2]]
                        many_rho = weighted_spearman(drawn[0], drawn[1], counts.astype(float))
                        former.append(tuple(np.quantile(many_rho, [0.025, 0.975])))
                bounds = {
                    method: [(np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs]))]
                    for method, pairs in (("used", used), ("former", former))
                    if pairs
                }
                name = f"rank correlation, images {rho}, levels {levels}"
                rows.append({"figure": name, "n": n, "truth": truth, **rated(bounds, truth)})
                print(rows[-1], flush=True)
    return rows


def page(found: Mapping[str, list[dict[str, Any]]]) -> str:
    """Return the Markdown page."""
    parts = [
        "# What the intervals cover",
        "Made by `python benchmarks/studies/coverage.py`; the settings are in that file. Percent of "
        "simulated audits whose interval covers the population's figure; in brackets the median width, and "
        "the percent of intervals that are undefined where there are any. 95 is what is said.",
    ]
    for title, rows in found.items():
        methods = [m for m in ("used", "student", "former") if any(m in row for row in rows)]
        names = dict.fromkeys(row["figure"] for row in rows)
        by_place = {(row["figure"], row["n"]): row for row in rows}
        heads = ["figure", *(f"n = {n}: {m}" for n in SIZES for m in methods)]
        lines = [[name, *(_text(by_place[name, n].get(m)) for n in SIZES for m in methods)] for name in names]
        parts += [f"## {title}", markdown_table(heads, lines)]
    return "\n\n".join(parts) + "\n"


def _text(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    text = f"{100 * found['coverage']:.1f}"
    if found["width"] is not None:
        text += f" ({found['width']:.2g})"
    return text + (f", {100 * found['undefined']:.0f} undefined" if found["undefined"] else "")


def main() -> None:
    """Run everything and write rows and table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    torch.set_num_threads(1)
    found = {
        "Means": simulated(of_means()),
        "Leak scores": simulated(of_ratios()),
        "Counts": of_shares(),
        "Mean shares of clients": of_clusters(),
        "Rank correlations": of_correlations(),
    }
    write_atomically(ROWS, json.dumps(found, indent=1).encode())
    write_atomically(TABLE, page(found).encode())


if __name__ == "__main__":
    main()
