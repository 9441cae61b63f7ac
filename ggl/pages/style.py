"""The figures of a report's page, as inline SVG: the same bytes for the same content, legible in dark mode.

matplotlib, of the extra `report`, is imported when a figure is drawn and not before.
"""

import io
import re
from typing import Any

__all__ = ["COLORS", "INK", "LINES", "MARKERS", "PALETTE", "PAPER", "STYLE", "to_svg"]

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

PALETTE = {
    "page": "#ffffff",
    "ink": "#1b1e22",
    "soft": "#5a626b",
    "rule": "#d5dae0",
    "tint": "#f4f6f8",
    "link": "#1a5fa8",
    "alarm": "#a8261c",
    "alarm-tint": "#fbeceb",
    "calm": "#2b5d7d",
    "calm-tint": "#eaf1f6",
}
"""The pages' colors in light mode, by their names in the style sheet; share cards have them too."""

LINES = ("solid", "dashed", "dashdot", "dotted")
MARKERS = ("o", "s", "^", "D", "v")

REFERENCE = re.compile(r'\bid="|href="#|url\(#')


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
