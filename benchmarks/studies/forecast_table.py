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

WITHIN = 3.0
"""dB."""

SEED, RESAMPLES = 0, 2000

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
    """Return which searches ended farther from the gradient than the ceiling is; none where unknown."""
    if "distance" not in cell:
        return np.zeros(len(images), dtype=np.bool_)
    found: NDArray[np.bool_] = np.greater(cell["distance"], cell["ceiling_distance"])[images]
    return found


def calibration(
    a: NDArray[np.float64], b: NDArray[np.float64], images: NDArray[np.int64]
) -> tuple[Interval, Interval]:
    """Return the median ratio of predicted to measured RMSE, and the share within 3 dB, over images."""
    ratio, n = np.sqrt(a / b), int(images.max()) + 1
    inside = np.abs(20 * np.log10(ratio)) < WITHIN
    random, drawn = numpy_stream(SEED, "forecast ratio"), []
    by_image = [ratio[images == i] for i in range(n)]
    for _ in range(RESAMPLES):
        drawn.append(np.median(np.concatenate([by_image[i] for i in random.integers(0, n, n)])))
    low, high = np.quantile(drawn, [0.025, 0.975])
    shares = [float(inside[images == i].mean()) for i in range(n)]
    return Interval(float(np.median(ratio)), float(low), float(high), n), share_of_clusters(shares)


def attacked(found: Mapping[str, Any]) -> Iterator[Task]:
    """Yield the attacks of which a cell has run."""
    for task in TASKS:
        if task.budget and found.get(task.key):
            yield task


def page(found: Mapping[str, Any]) -> str:
    """Return the tables."""
    over, within = [], []
    for task in attacked(found):
        names = [d for d in task.defenses if d in found[task.key]]
        for key, name in NAMES.items():
            points = pairs(found, task.victim, task.what, key, names)
            if points is None:
                continue
            a, b, i = points
            ratio, share = calibration(a, b, i)
            rho = rank_correlation(a, b, i)
            evaluations = f"{task.what}, {task.budget}"
            figures = [figure_text(rho), figure_text(ratio), figure_text(share)]
            over.append([task.victim, evaluations, name, *figures, str(len(a)), str(rho.n)])
        for defense in names:
            columns = {
                key: pairs(found, task.victim, task.what, key, [defense])
                for key in ("posterior", "exact", "bound", "ceiling")
            }
            known, ceiling = columns["posterior"], columns.pop("ceiling")
            if known is not None and ceiling is not None:
                rhos = ["" if p is None else figure_text(rank_correlation(*p)) for p in columns.values()]
                medians = [f"{np.median(np.sqrt(x)):.3f}" for x in (ceiling[0], known[0], known[1])]
                evaluations = f"{task.what}, {task.budget}"
                bad = stuck(found[task.key][defense], known[2])
                others = rank_correlation(known[0][~bad], known[1][~bad], known[2][~bad])
                within.append(
                    [task.victim, evaluations, defense, *rhos, figure_text(calibration(*known)[0]), *medians]
                    + (
                        [str(int(bad.sum())), figure_text(others)]
                        if "distance" in found[task.key][defense]
                        else ["", ""]
                    )
                )
    missing = {
        f"{task.victim}, {task.what}": [d for d in task.defenses if d not in found.get(task.key, {})]
        for task in TASKS
    }
    out_of_time = "; ".join(f"{name}: {', '.join(which)}" for name, which in missing.items() if which)
    parts = [
        "# The influence function with a prior, and what attackers reach\n",
        "Made by `python benchmarks/studies/forecast.py`, whose docstring holds the settings, and "
        "`python benchmarks/studies/forecast_table.py`. Spearman's rho of predicted and measured errors, "
        "median ratio of predicted to measured RMSE, and share of points within 3 dB, with 95 % intervals "
        "over images.\n",
        "## Over all levels\n",
        markdown_table(
            [
                "victim",
                "attacker, evaluations",
                "prediction",
                "rho",
                "median ratio",
                "within 3 dB",
                "points",
                "images",
            ],
            over,
        ),
        "\n## Within one level\n",
        "Ratios are the forecast's; RMSE are medians over images. Stuck: searches that ended farther "
        "from the shared gradient than the ceiling's image is, so that what is measured is the search and "
        "not the gradient; they were looked for in the cells that have a number there.\n",
        markdown_table(
            [
                "victim",
                "attacker, evaluations",
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
            ],
            within,
        ),
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
