"""What a whole scale costs, by the rate of a run."""

from collections.abc import Sequence

from ggl.benchmarks.reproduce.markdown import NOTHING, every, markdown_table
from ggl.benchmarks.reproduce.measuring import Measured
from ggl.benchmarks.reproduce.plan import ReproductionPlan
from ggl.benchmarks.sweeps.execute import SEARCHES
from ggl.benchmarks.sweeps.records import Record

__all__ = ["cost_of"]


def cost_of(plan: ReproductionPlan, records: Sequence[Record], measured: Measured) -> str:
    """Return what the whole reproduction costs, by the rate of this run."""
    rows, total = [], 0.0
    for name, spec in plan.specs.items():
        cells = set(spec.cells())
        done = [r for r in records if r.cell in cells and r.status == "ok"]
        seconds = sum(float(r.figures.get("seconds") or 0) for r in done)
        evaluations = SEARCHES * sum(int(r.figures.get("evaluations") or 0) for r in done)
        whole = SEARCHES * sum(cell.budget for cell in plan.whole[name].cells())
        if not (seconds and evaluations):
            rows.append((name, f"{whole:,}", NOTHING, NOTHING))
            continue
        hours = whole * seconds / evaluations / 3600
        total += hours
        rows.append((name, f"{whole:,}", f"{evaluations / seconds:.3g}", f"{hours:.3g}"))
    for name in plan.measured:
        hours = 0.0 if plan.shortened else measured.seconds.get(name, 0.0) / 3600
        total += hours
        rows.append((name, NOTHING, NOTHING, f"{hours:.3g}" if hours else NOTHING))
    rows.append(("all that was measured", "", "", f"{total:.3g}"))
    heads = (
        "sweep or measurement",
        "evaluations, controls included",
        "a second, of one process",
        "hours of one process",
    )
    on = f", on {every(r.device for r in records)}" if plan.specs else ""
    words = (
        f"By the rate of this run{on}; a process is a GPU's where the "
        "device is one. The inversions behind the ceilings come on top. A rate at a tiny budget or with one "
        "image is a low one."
    )
    return f"## What the whole scale costs\n\n{words}\n\n{markdown_table(heads, rows)}"
