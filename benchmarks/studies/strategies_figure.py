"""The comparison of strategies as a figure: loss and error by evaluations.

    python benchmarks/studies/strategies_figure.py

Reads `benchmarks/results/strategies.csv` and writes `strategies.svg` beside it: the median loss over images
and the mean PSNR with its 95 % interval, each image's seeds averaged first, of the residual search, CMA-ES,
TuRBO and Adam on each victim without a defense, at the budgets that were scored.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from ggl.base.files import write_atomically
from ggl.benchmarks.studies.strategies import BUDGETS, FINE, RESIDUAL, RESULTS, SCALAR, SEARCHES
from ggl.benchmarks.studies.strategies_cells import Key, Row
from ggl.benchmarks.studies.strategies_table import Results, over_images
from ggl.benchmarks.studies.tables import read_csv
from ggl.pages.style import COLORS, INK, LINES, MARKERS, STYLE, to_svg

SHOWN = (RESIDUAL, "adam", SCALAR, "turbo")
LONGEST, TICKS = 10_000, (500, 2_000, 10_000)
GRAY, WHITE = "#6b7f8c", "#ffffff"


def draw(results: Results) -> str:
    """Return the figure's markup, a column a victim."""
    with rc_context(STYLE):
        figure = Figure(figsize=(3 * len(SEARCHES), 5.2), facecolor=WHITE, layout="constrained")
        axes: Any = figure.subplots(2, len(SEARCHES), sharex=True, sharey="row")
        for column, victim in enumerate(SEARCHES):
            for k, strategy in enumerate(SHOWN):
                budgets = sorted(b for b in (*BUDGETS, *FINE) if b <= LONGEST)
                keys = [(victim, "none", strategy, b) for b in budgets]
                _draw(axes[:, column], results, [key for key in keys if key in results.rows], k)
            axes[0, column].set_title(victim)
            axes[1, column].set_xlabel("objective evaluations")
            axes[1, column].set_xscale("log")
            axes[1, column].set_xticks(TICKS, [f"{tick:,}" for tick in TICKS])
            axes[1, column].xaxis.set_minor_formatter(NullFormatter())
        axes[0, 0].set_ylabel("mean PSNR, dB")
        axes[1, 0].set_ylabel("median of 1 - cosine + penalty + 0.001")
        axes[1, 0].set_yscale("log")
        axes[1, 0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        for one in axes.flat:
            one.grid(color=INK, alpha=0.15, linewidth=0.6)
            one.spines[["top", "right"]].set_visible(False)
        handles, names = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(SHOWN), frameon=False)
        return str(to_svg(figure, "strategies")).replace("currentColor", GRAY)


def _draw(axes: Any, results: Results, keys: Sequence[Key], k: int) -> None:
    """Draw one strategy on one victim: PSNR above, loss below, which the penalty lets fall to -0.001."""
    if not keys:
        return
    budgets = [key[-1] for key in keys]
    psnr = [over_images(results.values(key, "psnr")) for key in keys]
    loss = [float(np.median(results.values(key, "loss").mean(1))) + 1e-3 for key in keys]
    look = {"color": COLORS[k], "marker": MARKERS[k], "linestyle": LINES[k], "markersize": 4}
    axes[0].plot(budgets, [found.mean for found in psnr], label=keys[0][2], **look)
    axes[0].fill_between(
        budgets,
        [found.low if found.low is not None else found.mean for found in psnr],
        [found.high if found.high is not None else found.mean for found in psnr],
        color=COLORS[k],
        alpha=0.12,
        linewidth=0,
    )
    axes[1].plot(budgets, loss, **look)


def main() -> None:
    """Write the figure."""
    drawing = draw(Results(read_csv(RESULTS, Row)))
    write_atomically(RESULTS.with_suffix(".svg"), drawing.encode())


if __name__ == "__main__":
    main()
