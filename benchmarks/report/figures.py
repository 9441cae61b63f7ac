"""The figures of a store's report as geometry: the template draws them as inline SVG."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, NamedTuple, TypeAlias

from ggl.benchmarks.report.rows import Row
from ggl.measures.leakage import HEADLINE

__all__ = ["MeanPoint", "convergence", "distribution", "mean_curve", "per_image"]

WIDTH, HEIGHT = 400, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 20, 8, 36
"""Of a panel of convergence, and its margins, in pixels."""

STRIP_LEFT, STRIP_HEIGHT = 112, 30
LONGEST = 15
"""Characters of a strategy's name beside its strip."""

COLORS, DASHES, MARKERS = 7, 4, 5
"""How many of each the style sheet knows."""

Number: TypeAlias = int | float
Axis: TypeAlias = Literal["evaluations", "seconds"]


class MeanPoint(NamedTuple):
    """A group's mean over images at one point of the search; None where a cell's is not finite."""

    evaluations: float
    seconds: float
    mse: float | None


class PerImage(NamedTuple):
    """One image's figures, means over seeds; the leak score's None where it is no finite number."""

    image: int
    psnr: float
    control: float
    leak: float | None


def mean_curve(row: Row) -> list[MeanPoint]:
    """Return the mean over cells of the best so far, as far as all of them go."""
    curves = [record.curve for record in row.done]
    if not curves:
        return []
    return [
        MeanPoint(
            fmean(point.evaluations for point in points),
            fmean(point.seconds for point in points),
            _finite([point.mse for point in points]),
        )
        for points in zip(*(curve[: min(map(len, curves))] for curve in curves), strict=True)
    ]


def per_image(row: Row) -> list[PerImage]:
    """Return every image's PSNR, that of the group's strongest control, and its own leak score."""
    if row.group.leak is None or not all(
        row.group.has("psnr", s) for s in ("attack", row.group.leak.control)
    ):
        return []
    control = row.group.leak.control
    psnr, other = row.group.values("attack", "psnr"), row.group.values(control, "psnr")
    errors = [row.group.values(source, HEADLINE) for source in ("attack", control, "ceiling")]
    leaks = [(c - a) / (c - best) if c > best else None for a, c, best in zip(*errors, strict=True)]
    return [PerImage(*found) for found in zip(row.group.by_image, psnr, other, leaks, strict=True)]


@dataclass(frozen=True)
class Scale:
    """From figures to pixels."""

    low: Number
    high: Number
    start: Number
    end: Number
    logarithmic: bool = False

    def __call__(self, value: Number) -> float:
        """Return a figure's place, at an end where it lies beyond."""
        low, high, at = (
            (math.log10(x) for x in (self.low, self.high, max(value, self.low)))
            if self.logarithmic
            else (self.low, self.high, value)
        )
        share = min(max((at - low) / (high - low), 0.0), 1.0)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[dict[str, object]]:
        """Return places and labels, at most about seven."""
        values = _decades(self.low, self.high) if self.logarithmic else _round_steps(self.low, self.high)
        return [{"at": self(value), "label": f"{value:,.10g}"} for value in values]


def convergence(rows: Sequence[Row], strategies: Sequence[str]) -> list[dict[str, object]]:
    """Return a figure a defense of one setting: mean squared error by evaluations, and by seconds.

    All share their axes, so that they can be compared.
    """
    curves = {row.key: [step for step in mean_curve(row) if step.mse is not None] for row in rows}
    steps = [step for curve in curves.values() for step in curve]
    if not steps:
        return []
    errors = Scale(0.0, max(step.mse or 0.0 for step in steps) or 1.0, HEIGHT - BOTTOM, TOP)
    across = {axis: _across(steps, axis) for axis in ("evaluations", "seconds")}
    return [
        {
            "defense": name,
            "panels": [
                _panel(own, curves, strategies, across["evaluations"], errors, "evaluations"),
                _panel(own, curves, strategies, across["seconds"], errors, "seconds"),
            ],
        }
        for name, own in _by_defense(rows).items()
        if any(curves[row.key] for row in own)
    ]


def distribution(rows: Sequence[Row], strategies: Sequence[str]) -> list[dict[str, object]]:
    """Return a figure a defense of one setting: each image's PSNR and its control's, a strip a strategy."""
    found = {row.key: per_image(row) for row in rows}
    known = [value for images in found.values() for image in images for value in (image.psnr, image.control)]
    if not known:
        return []
    low, high = math.floor(min(known)), math.ceil(max(known))
    scale = Scale(low, max(high, low + 1), STRIP_LEFT, WIDTH - RIGHT)
    return [
        {
            "defense": name,
            "ticks": scale.ticks(),
            "width": WIDTH,
            "left": STRIP_LEFT,
            "right": WIDTH - RIGHT,
            "height": STRIP_HEIGHT * len(own) + BOTTOM,
            "bottom": STRIP_HEIGHT * len(own),
            "strips": [_strip(row, k, found[row.key], strategies, scale) for k, row in enumerate(own)],
        }
        for name, all_ in _by_defense(rows).items()
        if (own := [row for row in all_ if found[row.key]])
    ]


def _strip(
    row: Row, k: int, images: Sequence[PerImage], strategies: Sequence[str], scale: Scale
) -> dict[str, object]:
    top = STRIP_HEIGHT * k
    name = row.strategy
    return {
        "strategy": name,
        "index": strategies.index(name),
        "short": name if len(name) <= LONGEST else name[: LONGEST - 1] + "…",
        "color": strategies.index(name) % COLORS,
        "top": top,
        "attack": [scale(image.psnr) for image in images],
        "control": [scale(image.control) for image in images],
        "attack_mean": scale(fmean(image.psnr for image in images)),
        "control_mean": scale(fmean(image.control for image in images)),
    }


def _panel(
    rows: Sequence[Row],
    curves: dict[str, list[MeanPoint]],
    strategies: Sequence[str],
    across: Scale,
    errors: Scale,
    axis: Axis,
) -> dict[str, object]:
    return {
        "axis": axis,
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "bottom": HEIGHT - BOTTOM,
        "x_ticks": across.ticks(),
        "y_ticks": errors.ticks(),
        "levels": _levels(rows, errors),
        "lines": [
            _line(row, curves[row.key], strategies.index(row.strategy), across, errors, axis)
            for row in rows
            if curves[row.key]
        ],
    }


def _line(
    row: Row, steps: Sequence[MeanPoint], index: int, across: Scale, errors: Scale, axis: Axis
) -> dict[str, object]:
    places = [(across(getattr(step, axis)), errors(step.mse or 0.0)) for step in steps]
    return {
        "strategy": row.strategy,
        "index": index,
        "color": index % COLORS,
        "dash": index % DASHES,
        "marker": index % MARKERS,
        "places": places,
        "path": "M" + "L".join(f"{x:g} {y:g}" for x, y in places),
    }


def _levels(rows: Sequence[Row], errors: Scale) -> list[dict[str, object]]:
    """Return the lines to read a panel by: the strongest control's mean error, and the ceiling's."""
    known = [row.group for row in rows if row.group.leak is not None]
    controls = [
        fmean(group.values(group.leak.control, HEADLINE)) for group in known if group.leak is not None
    ]
    ceilings = [fmean(group.values("ceiling", HEADLINE)) for group in known]
    levels = (("strongest control", controls), ("ceiling", ceilings))
    return [{"name": name, "at": errors(min(values))} for name, values in levels if values]


def _across(steps: Iterable[MeanPoint], axis: Axis) -> Scale:
    values = [value for step in steps if (value := getattr(step, axis)) > 0] or [1.0]
    low, high = min(values), max(values)
    return Scale(low, high if high > low else 10 * low, LEFT, WIDTH - RIGHT, logarithmic=True)


def _by_defense(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.defense, []).append(row)
    return found


def _finite(values: Sequence[float]) -> float | None:
    return fmean(values) if all(map(math.isfinite, values)) else None


def _decades(low: Number, high: Number) -> list[float]:
    """Return 1, 2 and 5 times powers of ten within, or these powers alone where they suffice."""
    reach = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    powers = [10.0**k for k in reach if low <= 10.0**k <= high]
    if len(powers) > 2:
        return powers[:: math.ceil(len(powers) / 7)]
    return [m * 10.0**k for k in reach for m in (1, 2, 5) if low <= m * 10.0**k <= high]


def _round_steps(low: Number, high: Number) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten within, four to nine of them."""
    size = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(m * size for m in (1, 2, 5, 10) if (high - low) / (m * size) <= 8)
    return [float(k * step) for k in range(math.ceil(low / step), math.floor(high / step + 1e-9) + 1)]
