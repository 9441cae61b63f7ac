"""The figures of an audit's page."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ggl.audits.findings import AuditCell
from ggl.pages.style import COLORS, INK, LINES, MARKERS, STYLE, to_svg

__all__ = ["draw_convergence"]


def draw_convergence(cells: Sequence[AuditCell], distance: str) -> object:
    """Return the mean best loss of every cell against evaluations."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(8, 3.6 + 0.12 * len(cells)), facecolor="none", layout="constrained")
        _draw_curves(figure, cells, distance)
        return to_svg(figure, "convergence")


def _draw_curves(figure: Any, cells: Sequence[AuditCell], distance: str) -> None:
    """Draw one curve a cell, told apart by line and marker as well as by color."""
    axes = figure.add_subplot(facecolor="none")
    for k, cell in enumerate(cells):
        evaluations, losses = cell.curve()
        step = max(1, len(losses) // 6)
        axes.plot(
            evaluations,
            np.where(np.isfinite(losses), losses, np.nan),
            color=COLORS[k % len(COLORS)],
            linestyle=LINES[k % len(LINES)],
            marker=MARKERS[k % len(MARKERS)],
            markevery=(k * step // max(1, len(cells)), step),
            markersize=4,
            label=f"{k:02d}  {cell.defense}, {cell.attacker}, {cell.strategy}",
        )
    _scale(axes, f"mean best loss ({distance}, no unit)")
    axes.set_xlabel("objective evaluations per image")
    axes.grid(color=INK, alpha=0.15, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9, handlelength=4)


def _scale(axes: Any, label: str) -> None:
    """Make the loss axis logarithmic, three decades deep, where the sizes of losses span more than one.

    A loss can be negative, since the prior's penalty is: below the last decade the axis is linear.
    """
    sizes = np.abs(np.concatenate([line.get_ydata() for line in axes.lines]))
    if np.nanmax(sizes) > 10 * np.nanmin(sizes):
        least = 10 ** (np.floor(np.log10(np.nanmax(sizes))) - 2)
        axes.set_yscale("symlog", linthresh=least)
        axes.yaxis.set_major_formatter("{x:g}")
        label += f",\nlogarithmic, linear below {least:g}"
    axes.set_ylabel(label)
