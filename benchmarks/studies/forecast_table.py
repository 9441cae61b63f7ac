"""The table of forecast.json, which `benchmarks/studies/forecast.py` writes and whose settings it holds.

python benchmarks/studies/forecast_table.py
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ggl.base.files import write_atomically
from ggl.base.random import numpy_stream
from ggl.benchmarks.studies.forecast import FIGURES, TASKS, Task
from ggl.benchmarks.studies.tables import figure_text, markdown_table
from ggl.measures.rank_correlation import rank_correlation
from ggl.measures.statistics import Interval, share_of_clusters

NAMES = {
    "posterior": "forecast",
    "map": "bias and variance at z*",
    "search": "Σ + Σ²",
    "exact": "exact influence, no prior",
    "bound": "published bound, no prior",
}
"""Of predictions of a mean squared error."""

WITHIN = 10 ** (3 / 20)
"""3 dB, as a ratio of RMSE."""

SEED, RESAMPLES = 0, 2000

FEWEST = 6
"""Points that are ordered."""

ATTACK = ("victim", "attacker, evaluations")
OVER = (*ATTACK, "prediction", "rho", "median ratio", "within 3 dB", "points", "images")
WITHIN_ONE = (
    *ATTACK,
    "defense",
    "rho, forecast",
    "rho, exact influence",
    "rho, bound",
    "median ratio",
    "RMSE of the ceiling",
    "RMSE forecast",
    "RMSE measured",
    "stuck",
    "rho, forecast, of the others",
)

FAR = 2.0
"""Times the ceiling's distance; chosen when the figures were known."""

Points: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]
"""Predicted and measured mean squared errors and the numbers of their images."""


def pairs(
    found: Mapping[str, Any], victim: str, strategy: str, key: str, defenses: Sequence[str]
) -> Points | None:
    """Return predicted and measured mean squared errors and image numbers, (m,) each, None without any."""
    rows = []
    for defense in defenses:
        measured = found.get(f"{victim} {strategy}", {}).get(defense, {}).get("measured", [])
        sources = [
            found.get(f"{victim} {what}", {}).get(defense, {}) for what in ("forecast", "exact", "bound")
        ]
        predicted: list[float] = next((source[key] for source in sources if key in source), [])
        rows += [(p, m, i) for i, (p, m) in enumerate(zip(predicted, measured, strict=False))]
    if not rows:
        return None
    a, b, i = (np.array(column) for column in zip(*rows, strict=True))
    return a, b, i


def stuck(cell: Mapping[str, Sequence[float]], images: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which searches ended `FAR` times as far from the gradient as the ceiling; none where unknown."""
    if "distance" not in cell:
        return np.zeros(len(images), dtype=np.bool_)
    found: NDArray[np.bool_] = np.greater(cell["distance"], FAR * np.array(cell["ceiling_distance"]))[images]
    return found


def without(points: Points, left_out: NDArray[np.bool_]) -> Points:
    """Return the points but some."""
    predicted, measured, images = points
    return predicted[~left_out], measured[~left_out], images[~left_out]


def calibration(points: Points) -> tuple[Interval, Interval]:
    """Return the median ratio of predicted to measured RMSE, and the share within 3 dB, over images."""
    predicted, measured, images = points
    ratio = np.sqrt(predicted / measured)
    by_image = [ratio[images == i] for i in np.unique(images)]
    random, n = numpy_stream(SEED, "forecast ratio"), len(by_image)
    drawn = [
        np.median(np.concatenate([by_image[i] for i in random.integers(0, n, n)])) for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    shares = [float(((part > 1 / WITHIN) & (part < WITHIN)).mean()) for part in by_image]
    return Interval(float(np.median(ratio)), float(low), float(high), n), share_of_clusters(shares)


def ordered(points: Points | None) -> str:
    """Return Spearman's rho as text, nothing where points are few."""
    if points is None or len(points[0]) < FEWEST:
        return ""
    return figure_text(rank_correlation(*points))


def over_levels(found: Mapping[str, Any], task: Task) -> Iterator[list[str]]:
    """Yield an attack's rows over all levels, one a prediction."""
    names = [name for name in task.defenses if name in found[task.key]]

    def of(key: str, defenses: Sequence[str]) -> Points | None:
        return pairs(found, task.victim, task.what, key, defenses)

    sets = {name: of(key, names) for key, name in NAMES.items()}
    sets["forecast, without pruning"] = of("posterior", [n for n in names if not n.startswith("prune")])
    whole = sets["forecast"]
    if whole is not None and any("distance" in found[task.key][name] for name in names):
        n = len(found[task.key][names[0]]["measured"])
        far = [stuck(found[task.key][name], np.arange(n)) for name in names]
        sets["forecast, without those stuck"] = without(whole, np.concatenate(far))
    for name, points in sets.items():
        if points is not None:
            figures = [figure_text(one) for one in calibration(points)]
            counts = [str(len(points[0])), str(len(np.unique(points[2])))]
            yield [task.victim, f"{task.what}, {task.budget}", name, ordered(points), *figures, *counts]


def by_level(found: Mapping[str, Any], task: Task) -> Iterator[list[str]]:
    """Yield an attack's rows, one a level."""
    for defense, cell in found[task.key].items():
        columns = {
            key: pairs(found, task.victim, task.what, key, [defense])
            for key in ("posterior", "exact", "bound", "ceiling")
        }
        known, ceiling = columns["posterior"], columns.pop("ceiling")
        if known is None or ceiling is None:
            continue
        medians = [f"{np.median(np.sqrt(x)):.3f}" for x in (ceiling[0], known[0], known[1])]
        ends = ["", ""]
        if "distance" in cell:
            bad = stuck(cell, known[2])
            ends = [str(int(bad.sum())), ordered(without(known, bad))]
        ratio = figure_text(calibration(known)[0])
        rhos = [ordered(points) for points in columns.values()]
        yield [task.victim, f"{task.what}, {task.budget}", defense, *rhos, ratio, *medians, *ends]


def page(found: Mapping[str, Any]) -> str:
    """Return the tables."""
    attacks = [task for task in TASKS if task.budget and found.get(task.key)]
    missing = {
        f"{task.victim}, {task.what}": [d for d in task.defenses if d not in found.get(task.key, {})]
        for task in TASKS
    }
    out_of_time = "; ".join(f"{name}: {', '.join(which)}" for name, which in missing.items() if which)
    parts = [
        "# The influence function with a prior, and what attackers reach\n",
        "Made by `python benchmarks/studies/forecast.py`, whose docstring holds the settings, and "
        "`python benchmarks/studies/forecast_table.py`. Spearman's rho of predicted and measured errors "
        f"(left out below {FEWEST} points), median ratio of predicted to measured RMSE, and share of points "
        "within 3 dB, with 95 % intervals over images.\n",
        "## Over all levels\n",
        markdown_table(OVER, [row for task in attacks for row in over_levels(found, task)]),
        "\n## Within one level\n",
        "Ratios are the forecast's; RMSE are medians over images. Stuck: searches that ended more than twice "
        "as far from the shared gradient as the ceiling's image is, so that what is measured is the search "
        "and not the gradient (looked for where a number stands; the factor was chosen when the figures were "
        "known).\n",
        markdown_table(WITHIN_ONE, [row for task in attacks for row in by_level(found, task)]),
        "\n## Did not run\n",
        f"Out of time: {out_of_time}." if out_of_time else "Everything ran.",
    ]
    return "\n".join(parts) + "\n"


def main() -> None:
    """Write forecast.md."""
    found = json.loads(FIGURES.read_text())
    write_atomically(FIGURES.with_suffix(".md"), page(found).encode())


if __name__ == "__main__":
    main()
