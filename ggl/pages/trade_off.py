"""The figure of privacy against utility: the worst-case leak score over the accuracy that is left.

matplotlib, of the extra `report`, is imported when the figure is drawn and not before.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ggl.pages.style import COLORS, INK, PAPER, STYLE, to_svg

__all__ = ["draw_trade_off"]

Json: TypeAlias = Mapping[str, Any]
Box: TypeAlias = tuple[float, float, float, float]
"""Left, bottom, right and top in points."""

VERDICTS: dict[str, tuple[str, str, bool]] = {
    "leaks": ("o", COLORS[1], True),
    "identifies": ("D", COLORS[1], True),
    "no leak shown": ("o", COLORS[0], False),
    "undecided": ("s", COLORS[6], False),
    "withheld": ("s", COLORS[6], False),
}
"""Of the points of every verdict: marker, color, and whether it is filled."""

MARKER, GLYPH, LINE_HEIGHT = 7.0, 5.2, 9.0
"""In points: a marker's side, a character's width, and the height of a label."""

LONGEST = 26
"""Characters of a label; what is longer ends in an ellipsis, and is in the page's table."""

CARET_DOWN, CARET_UP = 7, 6
"""matplotlib's markers whose tip lies on the point."""


def draw_trade_off(points: Sequence[Json], undefended: Json, reach: tuple[float, float]) -> object:
    """Return the worst-case leak score of every defense against the accuracy of a training under it.

    Args:
        points: each with "key" (what its id ends in), "label", "verdict" and the intervals "leak_score" and
            "accuracy", the latter in percent; bounds may be None, means may not.
        undefended: the interval of the accuracy without a defense, in percent.
        reach: of the leak score's axis; what lies beyond is an arrow at its end.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(8, 4.6 + 0.06 * len(points)), facecolor="none")
        axes = figure.add_axes((0.1, 0.115, 0.885, 0.815), facecolor="none")
        _frame(axes, points, undefended, reach)
        for point in points:
            _draw_point(axes, point, reach)
        _label(axes, points, reach)
        return to_svg(figure, "trade-off")


def _frame(axes: Any, points: Sequence[Json], undefended: Json, reach: tuple[float, float]) -> None:
    """Draw the axes, the lines of leak scores 0 and 1, and the undefended accuracy."""
    known = [x for interval in (undefended, *(p["accuracy"] for p in points)) for x in _known(interval)]
    pad = max(0.06 * (max(known) - min(known)), 0.5)
    axes.set_xlim(min(known) - pad, max(known) + pad)
    pad = 0.05 * (reach[1] - reach[0])
    axes.set_ylim(reach[0] - pad, reach[1] + pad)
    axes.set_xlabel("test accuracy under the defense, %")
    axes.set_ylabel("worst-case leak score")
    axes.grid(color=INK, alpha=0.12, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.axhline(0, color=INK, linewidth=0.9)
    axes.axhline(1, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
    if undefended["low"] is not None and undefended["high"] is not None:
        axes.axvspan(undefended["low"], undefended["high"], color=COLORS[2], alpha=0.12, linewidth=0)
    axes.axvline(undefended["mean"], color=COLORS[2], linewidth=1.2, linestyle="dashed", gid="undefended")
    middle = sum(axes.get_xlim()) / 2
    axes.annotate(
        f"undefended: {undefended['mean']:.1f} %",
        (undefended["mean"], 1.0),
        (0, 3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right" if undefended["mean"] > middle else "left",
        fontsize=9,
    )


def _draw_point(axes: Any, point: Json, reach: tuple[float, float]) -> None:
    """Draw a defense's marker and the intervals of both its figures."""
    marker, color, full = VERDICTS[point["verdict"]]
    x, y = _place(point, reach)
    scores, accuracies = _known(point["leak_score"]), _known(point["accuracy"])
    axes.plot([min(accuracies), max(accuracies)], [y, y], color=color, linewidth=1, alpha=0.7)
    axes.plot([x, x], np.clip([min(scores), max(scores)], *reach), color=color, linewidth=1, alpha=0.7)
    for beyond, end, caret in (
        (min(scores) < reach[0], reach[0], CARET_DOWN),
        (max(scores) > reach[1], reach[1], CARET_UP),
    ):
        if beyond:
            pad = 0.045 * (reach[1] - reach[0]) * (1 if caret == CARET_UP else -1)
            axes.plot([x, x], [end, end + pad], color=color, linewidth=1, alpha=0.7)
            axes.plot(x, end + pad, marker=caret, color=color, markersize=6, clip_on=False)
    axes.plot(
        *(x, y, marker),
        markersize=MARKER - (1 if marker == "D" else 0),
        markeredgecolor=color,
        markerfacecolor=color if full else PAPER,
        markeredgewidth=1.5,
        gid=f"point-{point['key']}",
        zorder=3,
    )


def _label(axes: Any, points: Sequence[Json], reach: tuple[float, float]) -> None:
    """Write every point's label where it covers least of what is there."""
    scale = 72 / axes.figure.dpi
    places = [axes.transData.transform(_place(point, reach)) * scale for point in points]
    frame = axes.bbox.extents * scale
    taken = [_box(place, MARKER, MARKER) for place in places]
    lines = [line for point in points for line in _bars(axes, point, reach, scale)]
    lines += _rules(axes, scale)
    for point, place in zip(points, places, strict=True):
        label = _shortened(point["label"])
        width = GLYPH * len(label)

        def cost(offset: tuple[float, float], place: Any = place, width: float = width) -> float:
            box = _box(place + np.array(offset), width, LINE_HEIGHT)
            outside = box[0] < frame[0] or box[1] < frame[1] or box[2] > frame[2] or box[3] > frame[3]
            covered = sum(_overlap(box, other) for other in taken)
            crossed = sum(_overlap(box, line) > 0 for line in lines)
            return float(1000 * outside + covered + 12 * crossed + 0.4 * np.hypot(*offset))

        best = min(_offsets(width), key=cost)
        taken.append(_box(place + np.array(best), width, LINE_HEIGHT))
        _write(axes, label, _place(point, reach), best)


def _shortened(label: str) -> str:
    return label if len(label) <= LONGEST else label[: LONGEST - 1] + "…"


def _write(axes: Any, label: str, place: tuple[float, float], offset: tuple[float, float]) -> None:
    """Write a label beside its place, with a line to it where the two are far apart."""
    far = np.hypot(*offset) > 2 * MARKER
    leader = {"arrowstyle": "-", "color": INK, "alpha": 0.5, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
    axes.annotate(
        label,
        place,
        offset,
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=8.5,
        arrowprops=leader if far else None,
        annotation_clip=False,
    )


def _offsets(width: float) -> Iterator[tuple[float, float]]:
    """Yield where a label of that width may lie, relative to its point, in points."""
    for ring in (1.0, 1.8, 2.7, 3.7):
        for angle in np.arange(1, 33, 2) * np.pi / 16:
            x, y = np.cos(angle), np.sin(angle)
            yield float(ring * (MARKER + width / 2) * x), float(ring * (MARKER / 2 + LINE_HEIGHT) * 0.85 * y)


def _bars(axes: Any, point: Json, reach: tuple[float, float], scale: float) -> Iterator[Box]:
    """Yield the boxes of a point's two intervals."""
    x, y = _place(point, reach)
    scores, accuracies = np.clip(_known(point["leak_score"]), *reach), _known(point["accuracy"])
    for ends in (((min(accuracies), y), (max(accuracies), y)), ((x, scores.min()), (x, scores.max()))):
        (left, bottom), (right, top) = axes.transData.transform(ends) * scale
        yield left - 0.5, bottom - 0.5, right + 0.5, top + 0.5


def _rules(axes: Any, scale: float) -> list[Box]:
    """Return the boxes of the lines that cross the whole figure: leak scores 0 and 1, and no defense."""
    rules = [line for line in axes.lines if line.get_transform() != axes.transData]
    boxes = (line.get_window_extent().extents * scale for line in rules)
    return [(box[0] - 0.5, box[1] - 0.5, box[2] + 0.5, box[3] + 0.5) for box in boxes]


def _box(center: Any, width: float, height: float) -> Box:
    x, y = (float(value) for value in center)
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _overlap(a: Box, b: Box) -> float:
    """Return the area that two boxes share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _place(point: Json, reach: tuple[float, float]) -> tuple[float, float]:
    return float(point["accuracy"]["mean"]), float(np.clip(point["leak_score"]["mean"], *reach))


def _known(interval: Json) -> list[float]:
    return [float(interval[key]) for key in ("mean", "low", "high") if interval[key] is not None]
