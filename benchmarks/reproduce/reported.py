"""The paper's own rows, and ours beside them."""

import math
from collections.abc import Mapping, Sequence

from ggl.benchmarks.reproduce.file import Reported
from ggl.benchmarks.reproduce.groups import Group, mean_of
from ggl.benchmarks.reproduce.markdown import NOTHING, interval_text, markdown_table
from ggl.benchmarks.sweeps.aggregate import CellGroup
from ggl.measures.metrics import METRICS
from ggl.measures.statistics import Interval

__all__ = ["CONVENTIONS", "is_signed", "reported_tables"]

SIGNED_DB = 20 * math.log10(2)
"""What a peak of 1 on images in [-1, 1] takes off a PSNR."""

CONVENTIONS = """\
The paper scores images in [-1, 1] with a peak of 1: its PSNR is 6.02 dB below, its MSE 4 times that of \
images in [0, 1]. Figures below are in the paper's convention; PSNR of [0, 1] is in brackets."""


def is_signed(row: Reported) -> bool:
    """Return whether a row is of images in [-1, 1]."""
    return row.mse is not None and row.psnr is not None


def reported_tables(rows: Sequence[Reported], scale: str, groups: Mapping[str, Group]) -> list[str]:
    """Return the rows of both kinds, each kind in a table, those that there are."""
    kinds = ([row for row in rows if is_signed(row)], [row for row in rows if not is_signed(row)])
    tables = (_signed(kinds[0], scale, groups), _plain(kinds[1], scale, groups))
    return [table for kind, table in zip(kinds, tables, strict=True) if kind]


def _plain(rows: Sequence[Reported], scale: str, groups: Mapping[str, Group]) -> str:
    lines = []
    for row in rows:
        name, figure = row.small if scale == "small" else row.paper, row.figure or "psnr"
        group = groups.get(name) if name is not None else None
        ours = None if group is None else mean_of(group, figure)
        label = METRICS[figure].label if figure in METRICS else figure.replace("_", " ")
        count = NOTHING if group is None else str(group.n)
        lines.append((row.what, label, row.value or "not known", interval_text(ours, ".3g"), count))
    return markdown_table(("what", "figure", "reported", "ours", "n"), lines)


def _signed(rows: Sequence[Reported], scale: str, groups: Mapping[str, Group]) -> str:
    heads = (
        *("reported for", "MSE-I", "PSNR", "LPIPS (VGG)", "MSE-R"),
        *("ours", "MSE-I", "PSNR", "MSE-R", "leak score", "n"),
    )
    lines = []
    for row in rows:
        name = row.small if scale == "small" else row.paper
        group = groups.get(name) if name is not None else None
        psnr = NOTHING if row.psnr is None else f"{row.psnr:.2f} ({row.psnr + SIGNED_DB:.2f})"
        reported = (row.what, _figure(row.mse), psnr, _figure(row.lpips), _figure(row.mse_r))
        lines.append((*reported, *_ours(name, group)))
    return markdown_table(heads, lines)


def _ours(name: str | None, group: Group | None) -> tuple[str, ...]:
    if not isinstance(group, CellGroup) or not group.n:
        return (name or NOTHING, *[NOTHING] * 5)
    mse, psnr = group.mean("attack", "mse"), group.mean("attack", "psnr_signed")
    mse_r = group.mean("attack", "feature_distance") if group.has("feature_distance") else None
    signed = None if mse is None else Interval(4 * mse.mean, 4 * mse.low, 4 * mse.high, mse.n)
    brackets = "" if psnr is None else f" ({psnr.mean + SIGNED_DB:.2f})"
    leak = None if group.leak is None else group.leak.interval
    return (
        str(name),
        interval_text(signed, ".3g"),
        interval_text(psnr, ".2f") + brackets,
        interval_text(mse_r, ".3g"),
        interval_text(leak, ".2f"),
        str(group.n),
    )


def _figure(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4f}"
