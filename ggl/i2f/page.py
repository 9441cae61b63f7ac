"""The influence function's predictions as one self-contained HTML page."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from ggl.i2f.linearity import nonlinearity_note
from ggl.pages.style import COLORS, INK, MARKERS, STYLE, to_svg
from ggl.pages.templates import check_page, fill

__all__ = ["draw_scatter", "draw_spread", "render"]

Json: TypeAlias = Mapping[str, Any]

LEGEND_COLUMNS = 4
MINOR_LABELS = (1, 0.4)
"""Decades below which ticks between powers of ten are labeled: some of them, and all."""

LABELS = {
    "bound_rmse": "lower bound",
    "exact_rmse": "exact influence",
    "forecast_rmse": "forecast with the prior",
}


def render(result: Json) -> str:
    """Return the page of an i2f.json; the same bytes for the same content.

    Raises:
        InputError: jinja2 or matplotlib, the extra `report`, is not installed.
    """
    check_page()
    content = {
        **result,
        "labels": [entry["label"] for entry in result["results"][0]["classes"]],
        "unequal": [_ends(entry) for entry in result["results"]],
        "spread_figure": draw_spread(result["results"]),
        "scatter_figures": {
            LABELS[key]: draw_scatter(result["results"], key) for key in result["correlation"]
        },
        "doubt": nonlinearity_note(result["settings"]["linearity_power"]),
        "side": 0,
    }
    return fill("i2f.html.jinja", content)


def _ends(entry: Json) -> dict[str, Any]:
    """Return a defense's least and best protected class, and how far images lie apart."""
    classes = sorted((c for c in entry["classes"] if c["ratio"] is not None), key=lambda c: c["ratio"])
    spread = entry["exact_rmse"] or entry["bound_rmse"]
    return {
        "defense": entry["defense"],
        "least": classes[0] if classes else None,
        "most": classes[-1] if classes else None,
        "images": spread["most"] / spread["least"] if spread["least"] > 0 else None,
    }


def draw_spread(results: Sequence[Json]) -> object:
    """Return every image's predicted errors, a line a defense: all that are known."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(8, 1.4 + 0.5 * len(results)), facecolor="none", layout="constrained")
        axes: Any = figure.add_subplot(facecolor="none")
        for k, key in enumerate(LABELS):
            points = [(row[key], y) for y, e in enumerate(results) for row in e["rows"] if row[key]]
            if points:
                offset = 0.2 * (k - 1)
                axes.plot(
                    [x for x, _ in points],
                    [y + offset for _, y in points],
                    color=COLORS[k],
                    marker=MARKERS[k],
                    markerfacecolor="none",
                    markersize=4,
                    linestyle="none",
                    label=LABELS[key],
                )
        axes.set_yticks(range(len(results)), [entry["defense"] for entry in results])
        axes.set_ylim(len(results) - 0.5, -0.5)
        axes.set_xlabel("predicted RMSE of every image and draw")
        _finish(figure, axes, logarithmic=bool(axes.lines), on=("x",))
        return to_svg(figure, "spread")


def draw_scatter(results: Sequence[Json], key: str) -> object:
    """Return measured errors against one prediction, a point for every image and draw, a mark a defense."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(8, 4.4 + 0.06 * len(results)), facecolor="none", layout="constrained")
        axes: Any = figure.add_subplot(facecolor="none")
        for k, entry in enumerate(results):
            known = [row for row in entry["rows"] if row[key] and row["measured_rmse"]]
            axes.plot(
                [row[key] for row in known],
                [row["measured_rmse"] for row in known],
                color=COLORS[k % len(COLORS)],
                marker=MARKERS[(k // len(COLORS) + k) % len(MARKERS)],
                markersize=5,
                markerfacecolor="none",
                linestyle="none",
                label=entry["defense"],
            )
        axes.set_xlabel(f"predicted RMSE: {LABELS[key]}")
        axes.set_ylabel("measured RMSE of the attack")
        drawn = any(len(line.get_xdata()) for line in axes.lines)
        _finish(figure, axes, logarithmic=drawn, on=("x", "y"))
        return to_svg(figure, f"scatter-{key.removesuffix('_rmse')}")


def _finish(figure: Any, axes: Any, *, logarithmic: bool, on: Sequence[str]) -> None:
    if logarithmic:
        for axis in on:
            getattr(axes, f"set_{axis}scale")("log")
            getattr(axes, f"{axis}axis").set_major_formatter("{x:g}")
            getattr(axes, f"{axis}axis").set_minor_formatter(_between_decades())
    axes.grid(color=INK, alpha=0.15, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        figure.legend(
            loc="outside lower center", ncols=LEGEND_COLUMNS, frameon=False, fontsize=9, handlelength=2
        )


def _between_decades() -> object:
    """Return what labels ticks between powers of ten, in plain text, where the axis is short."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def __call__(self, x: float, pos: int | None = None) -> str:
            return f"{x:g}" if super().__call__(x, pos) else ""

    return Plain(minor_thresholds=MINOR_LABELS)
