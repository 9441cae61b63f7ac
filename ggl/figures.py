"""The figures of a report's page, as inline SVG: the same bytes for the same content, legible in dark mode.

matplotlib, of the extra `report`, is imported when a figure is drawn and not before.
"""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ggl.report import Cell

__all__ = ["COLORS", "INK", "LINES", "MARKERS", "PAPER", "STYLE", "draw_convergence", "to_svg"]

INK = "#0a0b0c"
"""Stands for the page's text color in a figure, so that it is legible in dark mode."""

PAPER = "#f3f4f5"
"""Stands for the page's background, of a marker that is not filled."""

STYLE: Any = {
    "svg.hashsalt": "ggl",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
"""The figures' style: the same bytes every time, text as text, names such as "$x$" as they are."""

COLORS = ("#2f7fc1", "#c8642d", "#2c9468", "#a463bd", "#9a7a1c", "#cc527e", "#6b7f8c")
"""Each with a contrast of at least 3 on white and on the dark page alike."""

LINES = ("solid", "dashed", "dashdot", "dotted")
MARKERS = ("o", "s", "^", "D", "v")

REFERENCE = re.compile(r'\bid="|href="#|url\(#')


def draw_convergence(cells: Sequence["Cell"], distance: str) -> object:
    """Return the mean best loss of every cell against evaluations."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(8, 3.6 + 0.12 * len(cells)), facecolor="none", layout="constrained")
        _draw_curves(figure, cells, distance)
        return to_svg(figure, "convergence")


def to_svg(figure: Any, name: str) -> object:
    """Return the figure as markup whose ids begin with `name`, so that a page may hold several."""
    from markupsafe import Markup
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    content = io.StringIO()
    canvas: Any = FigureCanvasSVG(figure)
    canvas.print_svg(content, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    drawing = content.getvalue()
    drawing = drawing[drawing.index("<svg") :].replace(INK, "currentColor").replace(PAPER, "var(--page)")
    tags = re.compile("<[^>]+>")  # text is left alone, whatever it holds
    return Markup(tags.sub(lambda tag: REFERENCE.sub(rf"\g<0>{name}-", tag[0]), drawing))  # noqa: S704


def _draw_curves(figure: Any, cells: Sequence["Cell"], distance: str) -> None:
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
