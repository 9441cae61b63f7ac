"""The report on a prior as pictures and as one self-contained HTML page."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import make_grid

from ggl.base.files import write_atomically
from ggl.measures.lpips import LPIPS_HINT, lpips_note
from ggl.measures.metrics import METRICS
from ggl.pages.style import COLORS, INK, LINES, MARKERS, STYLE, to_svg
from ggl.pages.templates import COLUMNS_SHOWN, DISPLAY_SIDE, check_page, data_uri, fill, fixed
from ggl.prior_reports.findings import PriorReport
from ggl.prior_reports.inversion import Inversion

__all__ = ["RESULT", "draw_points", "finish", "pictures", "render", "save"]

Json: TypeAlias = Mapping[str, Any]

RESULT = "prior.json"

FILE_SIDE, PAGE_SIDE = 256, 128
"""Larger images are reduced to this many pixels in the grids' files and on the page."""

SHOWN_METRICS = ("psnr", "ssim", "lpips")


def save(report: PriorReport, folder: str | Path, *, html: bool = True) -> dict[str, object]:
    """Write a report's pictures, `prior.html` and, last, `prior.json` into a folder; return the last.

    Raises:
        InputError: `html` without the packages of the extra `report`; nothing is written.
    """
    folder, result = Path(folder), report.to_dict()
    page = render(report, result) if html else None
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in pictures(report).items():
        write_atomically(folder / name, content)
    if page is not None:
        write_atomically(folder / "prior.html", page.encode())
    write_atomically(folder / RESULT, json.dumps(result, indent=1, allow_nan=False).encode())
    return result


def pictures(report: PriorReport) -> dict[str, bytes]:
    """Return the PNG files of a report by their names."""
    found = {
        "samples.png": grid(report.samples, FILE_SIDE),
        "interpolation.png": grid(report.interpolation, FILE_SIDE),
    }
    for name, inversion in report.sets.items():
        both = torch.stack([inversion.images, inversion.inverted])
        found[f"inversion-{name}.png"] = grid(both, FILE_SIDE)
    return found


def grid(images: Float[Tensor, "rows columns c h w"], side: int) -> bytes:
    """Return a PNG of images in rows, none of them larger than `side` pixels."""
    flat = images.flatten(0, 1).detach().cpu()
    longest = max(flat.shape[-2:])
    if longest > side:
        size = [max(1, round(length * side / longest)) for length in flat.shape[-2:]]
        flat = F.interpolate(flat, size, mode="area")
    tiled = make_grid(flat, nrow=images.shape[1], padding=2, pad_value=1.0)
    pixels = (tiled * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    content = io.BytesIO()
    picture = Image.fromarray(pixels)
    picture = picture.convert("L") if images.shape[2] == 1 else picture
    picture.save(content, "PNG", optimize=True)
    return content.getvalue()


def render(report: PriorReport, result: Mapping[str, object]) -> str:
    """Return the page of a report and its `to_dict()`; the same bytes for the same content.

    Raises:
        InputError: jinja2 or matplotlib, the extra `report`, is not installed.
    """
    check_page()
    return fill("prior_report.html.jinja", _content(report, result))


def _content(report: PriorReport, result: Json) -> dict[str, object]:
    """Return what the template shows."""
    any_figures = next(iter(result["sets"].values()))["figures"]["inversion"]
    return {
        **result,
        "sample_grid": _grid(report.samples),
        "interpolation_grid": _grid(report.interpolation),
        "rows": {name: _rows(inversion) for name, inversion in report.sets.items()},
        "controls_figure": draw_controls(result["sets"]),
        "curves_figure": draw_curves(result["sets"]),
        "metrics": {name: METRICS[name] for name in SHOWN_METRICS if name in any_figures},
        "shown": COLUMNS_SHOWN,
        "side": DISPLAY_SIDE,
        "pixelated": report.samples.shape[-1] < DISPLAY_SIDE,
        "lpips_hint": None if "lpips" in any_figures else LPIPS_HINT,
        "lpips_note": lpips_note(min(report.samples.shape[-2:])) if "lpips" in any_figures else None,
    }


def _grid(images: Tensor) -> dict[str, object]:
    """Return a grid's source and its width on the page, in CSS pixels."""
    source = "data:image/png;base64," + base64.b64encode(grid(images, PAGE_SIDE)).decode()
    return {"source": source, "width": images.shape[1] * DISPLAY_SIDE}


def _rows(inversion: Inversion) -> list[dict[str, object]]:
    """Return the rows of a set's pictures: a title, and each image's source, text and caption."""
    rows = [
        ("image", inversion.images, None),
        ("inversion", inversion.inverted, "inversion"),
        ("mean sample", inversion.mean_samples, "mean sample"),
    ]
    return [
        {
            "title": title,
            "images": [_picture(inversion, title, i, images[i], key) for i in _first(images)],
        }
        for title, images, key in rows
    ]


def _first(images: Tensor) -> range:
    return range(min(len(images), COLUMNS_SHOWN))


def _picture(inversion: Inversion, title: str, i: int, image: Tensor, key: str | None) -> dict[str, str]:
    caption = "" if key is None else f"{fixed(inversion.values[key]['psnr'][i], 1)} dB"
    alt = f"image {int(inversion.rows[i])}, class {int(inversion.labels[i])}: {title}"
    return {
        "source": data_uri(image),
        "alt": f"{alt}, PSNR {caption}" if caption else alt,
        "caption": caption,
    }


def draw_controls(sets: Json) -> object:
    """Return the mean PSNR of inversions and controls with their intervals, a line a set."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(kind for found in sets.values() for kind in found["figures"]))
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 1.6 + 0.7 * len(sets)), facecolor="none", layout="constrained")
        axes: Any = figure.add_subplot(facecolor="none")
        for k, kind in enumerate(kinds):
            here = [
                (y, s["figures"][kind]["psnr"]) for y, s in enumerate(sets.values()) if kind in s["figures"]
            ]
            draw_points(axes, k, kind, here, 0.16 * (k - (len(kinds) - 1) / 2), filled=kind == "inversion")
        axes.set_yticks(range(len(sets)), list(sets))
        axes.set_ylim(len(sets) - 0.5, -0.5)
        axes.set_xlabel("PSNR, dB; mean over images with its 95 % interval")
        finish(figure, axes, columns=len(kinds))
        return to_svg(figure, "controls")


def draw_points(
    axes: Any, k: int, kind: str, points: Sequence[tuple[int, Json]], offset: float, *, filled: bool
) -> None:
    """Draw one kind's points, filled or hollow, with their intervals where these are known."""
    color = COLORS[k % len(COLORS)]
    for y, interval in points:
        if interval["low"] is not None:
            axes.plot([interval["low"], interval["high"]], [y + offset] * 2, color=color, linewidth=2)
    axes.plot(
        [interval["mean"] for _, interval in points],
        [y + offset for y, _ in points],
        color=color,
        marker=MARKERS[k % len(MARKERS)],
        markerfacecolor=color if filled else "none",
        linestyle="none",
        label=kind,
    )


def draw_curves(sets: Json) -> object:
    """Return the mean PSNR of every set's best images so far against evaluations."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(8, 3.2 + 0.12 * len(sets)), facecolor="none", layout="constrained")
        axes: Any = figure.add_subplot(facecolor="none")
        for k, (name, found) in enumerate(sets.items()):
            axes.plot(
                found["curve"]["evaluations"],
                found["curve"]["psnr"],
                color=COLORS[k % len(COLORS)],
                linestyle=LINES[k % len(LINES)],
                label=name,
            )
        axes.set_xlabel("objective evaluations per image")
        axes.set_ylabel("mean PSNR of the best so far, dB")
        finish(figure, axes, columns=3)
        return to_svg(figure, "curves")


def finish(figure: Any, axes: Any, *, columns: int) -> None:
    """Give a figure its grid and its legend."""
    axes.grid(color=INK, alpha=0.15, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=9, handlelength=3)
