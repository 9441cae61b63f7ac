"""The comparison of priors as one self-contained HTML page beside every prior's own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from ggl.base.files import write_atomically
from ggl.pages.style import STYLE, to_svg
from ggl.pages.templates import COLUMNS_SHOWN, DISPLAY_SIDE, check_page, data_uri, fill, fixed
from ggl.prior_reports.comparison import PriorComparison
from ggl.prior_reports.page import draw_points, finish
from ggl.prior_reports.page import save as save_report

__all__ = ["RESULT", "folder_of", "render_comparison", "save_comparison"]

Json: TypeAlias = Mapping[str, Any]

RESULT = "priors.json"


def save_comparison(comparison: PriorComparison, folder: str | Path) -> dict[str, object]:
    """Write every prior's report into a folder of its own, `priors.html` and, last, `priors.json`.

    Raises:
        InputError: without the packages of the extra `report`; nothing is written.
    """
    folder, result = Path(folder), comparison.to_dict()
    page = render_comparison(comparison, result)
    for k, report in enumerate(comparison.reports.values()):
        save_report(report, folder / folder_of(k))
    write_atomically(folder / "priors.html", page.encode())
    write_atomically(folder / RESULT, json.dumps(result, indent=1, allow_nan=False).encode())
    return result


def folder_of(k: int) -> str:
    """Return the name of the folder of the k-th prior's own report."""
    return f"prior{k:02d}"


def render_comparison(comparison: PriorComparison, result: Mapping[str, object]) -> str:
    """Return the page of a comparison and its `to_dict()`; the same bytes for the same content.

    Raises:
        InputError: jinja2 or matplotlib, the extra `report`, is not installed.
    """
    check_page()
    return fill("prior_comparison.html.jinja", _content(comparison, result))


def _content(comparison: PriorComparison, result: Json) -> dict[str, object]:
    return {
        **result,
        "rows": {data: _rows(comparison, data) for data in result["sets"]},
        "chart": draw_ceilings(result["sets"]),
        "pages": {name: f"{folder_of(k)}/prior.html" for k, name in enumerate(comparison.reports)},
        "shown": COLUMNS_SHOWN,
        "side": DISPLAY_SIDE,
        "pixelated": comparison.size[1] < DISPLAY_SIDE,
    }


def _rows(comparison: PriorComparison, data: str) -> list[dict[str, object]]:
    """Return a set's images, of the largest prior, and every prior's inversions of them."""
    largest = max(comparison.reports.values(), key=lambda report: report.samples.shape[-1])
    decibels = comparison.decibels(data)
    rows: list[dict[str, object]] = [
        {
            "title": "image",
            "images": [
                {"source": data_uri(image), "alt": f"image {k}", "caption": ""}
                for k, image in enumerate(largest.sets[data].images[:COLUMNS_SHOWN])
            ],
        }
    ]
    for name, report in comparison.reports.items():
        captions = [f"{fixed(value, 1)} dB" for value in decibels[name].tolist()]
        shown = zip(report.sets[data].inverted[:COLUMNS_SHOWN], captions, strict=False)
        pictures = [
            {"source": data_uri(image), "alt": f"image {k} by {name}, PSNR {caption}", "caption": caption}
            for k, (image, caption) in enumerate(shown)
        ]
        rows.append({"title": name, "images": pictures})
    return rows


def draw_ceilings(sets: Json) -> object:
    """Return every prior's mean PSNR with its interval, a line a set."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    names = list(next(iter(sets.values()))["priors"])
    with rc_context(STYLE):
        size = (8, 1.2 + (0.3 + 0.16 * len(names)) * len(sets) + 0.2 * len(names))
        figure = Figure(figsize=size, facecolor="none", layout="constrained")
        axes: Any = figure.add_subplot(facecolor="none")
        for k, name in enumerate(names):
            points = [(y, found["priors"][name]["psnr"]) for y, found in enumerate(sets.values())]
            offset = (k - (len(names) - 1) / 2) * 0.8 / len(names)
            draw_points(axes, k, name, points, offset, filled=True)
        axes.set_yticks(range(len(sets)), list(sets))
        axes.set_ylim(len(sets) - 0.5, -0.5)
        axes.set_xlabel("PSNR of the inversions, dB; mean over images with its 95 % interval")
        finish(figure, axes, columns=1)
        return to_svg(figure, "ceilings")
