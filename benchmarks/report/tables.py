"""The tables of a store's report as CSV: what is undefined is empty, numbers have six digits."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from ggl.benchmarks.report.figures import mean_curve
from ggl.benchmarks.report.heat import cost_of
from ggl.benchmarks.report.rows import GROUP_AXES, Bounds, Row
from ggl.benchmarks.sweeps.cells import SweepCell

__all__ = ["axes_of", "convergence_table", "images_table", "leak_table", "table"]

Value: TypeAlias = str | int | float | None

BOUNDS = ("mean", "low", "high")
STATUSES = ("ok", "failed", "skipped")
IMAGE_FIGURES = (
    *("label", "label_recovered", "attack_mse", "attack_psnr", "attack_ssim", "attack_lpips", "attack_rank"),
    *("sibling_psnr", "noise_psnr", "prior_psnr", "class_mean_psnr", "ceiling_psnr", "decoys", "loss"),
    *("match_of_attack", "match_of_private", "evaluations", "seconds", "peak_memory"),
)


def table(head: Sequence[str], lines: Iterable[Sequence[Value]]) -> str:
    """Return a table as CSV."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([_text(value) for value in line] for line in lines)
    return content.getvalue()


def axes_of(cell: SweepCell) -> list[Value]:
    """Return a cell's axes but for its seed."""
    return [getattr(cell, axis) for axis in GROUP_AXES]


def leak_table(rows: Sequence[Row]) -> str:
    """Return a line a group: its axes, verdict, figures with their intervals, counts, costs and times."""
    figures = ("leak", "psnr", "ssim", "lpips", "identification", "accuracy", "accuracy_kept")
    head = [
        *(*GROUP_AXES, "verdict", "n", "seeds", *STATUSES, "control", "p"),
        *("corrected_verdict", "looks", "corrected_p", "corrected_low", "corrected_high"),
        *(f"{name}_{bound}" for name in figures for bound in BOUNDS),
        *("evaluations", "seconds", "evaluations_per_second", "peak_memory"),
    ]
    return table(head, map(_leak_line, rows))


def images_table(rows: Sequence[Row]) -> str:
    """Return a line a cell: its axes, how it ended, and its figures."""
    head = (*GROUP_AXES, "seed", "image", "cell", "status", "reason", *IMAGE_FIGURES)
    return table(
        head,
        (
            [
                *(*axes_of(record.cell), record.cell.seed, record.cell.image, record.cell.id),
                *(record.status, record.reason),
                *(record.figures.get(name) for name in IMAGE_FIGURES),
            ]
            for row in rows
            for record in row.group.records
        ),
    )


def convergence_table(rows: Sequence[Row]) -> str:
    """Return a line a group and step of its search: evaluations, seconds, mean squared error."""
    return table(
        (*GROUP_AXES, "evaluations", "seconds", "mse"),
        ([*axes_of(row.group.cell), *step] for row in rows for step in mean_curve(row)),
    )


def _leak_line(row: Row) -> list[Value]:
    group, leak, cost = row.group, row.group.leak, cost_of(row)
    accuracies = [None if cost is None else cost[name] for name in ("accuracy", "kept")]
    found = (row.leak, *row.metrics.values(), row.identification, *accuracies)
    totals = [row.total(name) for name in ("evaluations", "seconds")]
    memory = [record.figures.get("peak_memory") for record in row.done]
    return [
        *(*axes_of(group.cell), group.verdict if group.n else "", group.n, group.seeds),
        *(group.count(status) for status in STATUSES),
        *(("", None) if leak is None else (leak.control, leak.p_value)),
        *_corrected(row),
        *(value for bounds in found for value in _bounds(bounds)),
        *(*totals, row.rate, max((m for m in memory if m is not None), default=None)),
    ]


def _corrected(row: Row) -> list[Value]:
    """Return what is corrected for the number of the defense's groups."""
    found, bounds = row.correction, row.corrected
    if found is None:
        return ["", None, None, None, None]
    return [row.verdict, found.looks, found.leak.p_value, bounds["low"], bounds["high"]]


def _bounds(bounds: Bounds | None) -> list[float | None]:
    return [None if bounds is None else bounds[name] for name in BOUNDS]


def _text(value: Value) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
