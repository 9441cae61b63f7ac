"""The report as one self-contained HTML page: it opens anywhere and asks nothing of a network.

Jinja2 and matplotlib, the extra `report`, are imported when a page is made and not before.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image
from torch import Tensor

from ggl.base.errors import InputError
from ggl.leakage import Scores
from ggl.lpips import LPIPS_HINT
from ggl.metrics import METRICS

if TYPE_CHECKING:
    from ggl.report import Cell, Report

__all__ = ["check_page", "render"]

Json: TypeAlias = Mapping[str, Any]

EXTRA_HINT = "report.html needs the extra 'report': pip install 'ggl[report]', or save without the page"

COLUMNS_SHOWN = 20
"""Private images on the page, the first ones: choosing them by result would mislead."""

DISPLAY_SIDE = 72
"""Width of a picture on the page, in CSS pixels."""

AXIS_WIDTH, AXIS_PAD = 110, 6
AXIS_REACH = (-1.0, 1.5)
"""Leak scores beyond this are drawn as arrows at the axis's end."""

INK = "#0a0b0c"
"""Stands for the page's text color in the figure, so that it is legible in dark mode."""

RC: Any = {
    "svg.hashsalt": "ggl",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
"""The figure's style: the same bytes every time, text as text, names such as "$x$" as they are."""

COLORS = ("#2f7fc1", "#c8642d", "#2c9468", "#a463bd", "#9a7a1c", "#cc527e", "#6b7f8c")
"""Each with a contrast of at least 3 on white and on the dark page alike."""

SENTENCES = {
    "leaks": "the shared gradients leak under",
    "identifies": "they identify private images, though the leak score's interval reaches 0, under",
    "no leak shown": "no leak was shown under",
    "undecided": "there is no verdict on",
}
"""How the summary begins each verdict's list of defenses."""

LINES = ("solid", "dashed", "dashdot", "dotted")
MARKERS = ("o", "s", "^", "D", "v")


def check_page() -> None:
    """Raise `InputError` where jinja2 or matplotlib, the extra `report`, is not installed."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError(EXTRA_HINT) from error


def render(report: "Report", result: Mapping[str, object]) -> str:
    """Return the page of a report and its `to_dict()`; the same bytes for the same content.

    Raises:
        InputError: jinja2 or matplotlib, the extra `report`, is not installed.
    """
    check_page()
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["fixed"] = _fixed
    template = files("ggl").joinpath("assets", "report.html.jinja").read_text("utf-8")
    return environment.from_string(template).render(_content(report, result)).strip() + "\n"


def _content(report: "Report", result: Json) -> dict[str, object]:
    """Return what the template shows."""
    axis = _Axis([cell["leak_score"] for cell in result["results"]])
    cells = [_cell(report, k, found, axis) for k, found in enumerate(result["results"])]
    return {
        **result,
        "groups": {SENTENCES[verdict]: group for verdict, group in _by_verdict(cells).items() if group},
        "cells": cells,
        "figure": _figure(report.cells, str(result["settings"].get("distance", ""))),
        "shown": min(len(report.images), COLUMNS_SHOWN),
        "pixelated": report.images.shape[-1] < DISPLAY_SIDE,
        "side": DISPLAY_SIDE,
        "metrics": METRICS,
        "lpips_hint": None if "lpips" in result["ceiling"] else LPIPS_HINT,
    }


def _by_verdict(cells: Sequence[Json]) -> dict[str, list[Json]]:
    """Return each defense's strongest attack: of those that leak, if any, the highest leak score."""
    strongest: dict[str, Json] = {}
    for cell in cells:
        known = strongest.get(cell["defense"])
        if known is None or _strength(cell) > _strength(known):
            strongest[cell["defense"]] = cell
    groups: dict[str, list[Json]] = {verdict: [] for verdict in SENTENCES}
    for cell in strongest.values():
        groups[cell["verdict"]].append(cell)
    return groups


def _strength(cell: Json) -> tuple[bool, bool, float]:
    mean = cell["leak_score"]["mean"]
    return cell["leaks"], cell["identifies"], -math.inf if mean is None else mean


def _cell(report: "Report", k: int, found: Json, axis: "_Axis") -> dict[str, object]:
    """Return a cell's figures with what the page adds to them."""
    return {
        **found,
        "key": f"cell{k:02d}",
        "marks": axis.marks(found["leak_score"]),
        "pictures": _pictures(report, report.cells[k]),
    }


class _Axis:
    """The axis that the leak scores of all cells are drawn on; 0 and 1 always lie on it."""

    def __init__(self, intervals: Sequence[Json]) -> None:
        known: list[float] = [
            i[key] for i in intervals for key in ("mean", "low", "high") if i[key] is not None
        ]
        self.least = max(min([0.0, *known]), AXIS_REACH[0])
        self.most = min(max([1.0, *known]), AXIS_REACH[1])

    def place(self, score: float) -> float:
        """Return a score's position in pixels."""
        inside = min(max(score, self.least), self.most)
        share = (inside - self.least) / (self.most - self.least)
        return round(AXIS_PAD + share * (AXIS_WIDTH - 2 * AXIS_PAD), 1)

    def marks(self, interval: Json) -> dict[str, object]:
        """Return the positions of 0, 1 and the interval's known numbers, and which lie beyond."""
        known = {key: interval[key] for key in ("mean", "low", "high") if interval[key] is not None}
        return {
            "width": AXIS_WIDTH,
            "zero": self.place(0.0),
            "one": self.place(1.0),
            "below": known.get("low", 0) < self.least,
            "above": known.get("high", 0) > self.most,
            **{key: self.place(score) for key, score in known.items()},
        }


def _pictures(report: "Report", cell: "Cell") -> list[dict[str, object]]:
    """Return the rows of a cell's image grid: a title, and each image's source and alternative text."""
    rows: list[tuple[str, Tensor, Scores | None]] = [
        ("private image", report.images, None),
        ("attack", cell.images["private"], cell.attack),
        ("sibling control", cell.images["sibling"], cell.controls["sibling"]),
        ("noise control", cell.images["noise"], cell.controls["noise"]),
        ("ceiling", report.ceiling_images, report.ceiling),
    ]
    labels = report.labels.tolist()[:COLUMNS_SHOWN]
    return [
        {"title": title, "images": [_picture(title, i, y, images[i], s) for i, y in enumerate(labels)]}
        for title, images, s in rows
    ]


def _picture(title: str, i: int, label: int, image: Tensor, scores: Scores | None) -> dict[str, str]:
    alt, caption = f"image {i}, class {label}: {title}", ""
    if scores is not None:
        caption = f"{_fixed(scores.values['psnr'][i], 1)} dB"
        alt += f", PSNR {caption}, rank {scores.ranks[i]} of {scores.decoys[i] + 1}"
    return {"source": _data_uri(image), "alt": alt, "caption": caption}


def _data_uri(image: Tensor) -> str:
    """Return an image (c, h, w) in [0, 1] as a PNG, no larger than a sharp screen can show."""
    pixels = (image.detach().cpu() * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    picture.thumbnail((2 * DISPLAY_SIDE, 2 * DISPLAY_SIDE))
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def _figure(cells: Sequence["Cell"], distance: str) -> object:
    """Return the mean best loss of every cell against evaluations, as inline SVG."""
    from markupsafe import Markup
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(RC):
        figure = Figure(figsize=(8, 3.6 + 0.12 * len(cells)), facecolor="none", layout="constrained")
        _draw(figure, cells, distance)
        content = io.StringIO()
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(content, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    drawing = content.getvalue()
    return Markup(drawing[drawing.index("<svg") :].replace(INK, "currentColor"))  # noqa: S704


def _draw(figure: Any, cells: Sequence["Cell"], distance: str) -> None:
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


def _fixed(value: float | None, digits: int) -> str:
    """Return a number with so many decimals, with a true minus sign; "undefined" for None."""
    if value is None:
        return "undefined"
    text = f"{value:.{digits}f}"
    negative = text.startswith("-") and float(text) != 0
    return ("\u2212" if negative else "") + text.removeprefix("-")
