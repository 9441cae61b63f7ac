"""A reproduction's page: what is claimed, what was found, and what that comes to, in Markdown."""

import math
from collections.abc import Iterator, Mapping, Sequence

from ggl.benchmarks.reproduce.claims import RULES, Check, Finding, verdict_of
from ggl.benchmarks.reproduce.file import Claim, Reported
from ggl.benchmarks.reproduce.plan import ReproductionPlan
from ggl.benchmarks.sweeps.aggregate import CellGroup
from ggl.benchmarks.sweeps.execute import SEARCHES
from ggl.benchmarks.sweeps.records import Record
from ggl.measures.metrics import METRICS
from ggl.measures.statistics import Interval

__all__ = ["page_of"]

SIGNED_DB = 20 * math.log10(2)
"""What a peak of 1 on images in [-1, 1] takes off a PSNR."""

SHORTENED = "not judged: shortened"
NOTHING = "-"
DECIBELS = ("psnr", "psnr_signed")

VERDICTS = """\
**reproduced**: every check holds. **partly**: some hold, some fail. **not**: all fail. **undecided**: a \
check has too few images, or an interval that allows both. **not testable here**: for the reason given. \
Intervals are of 95 %, over images. Claims, checks, tolerances and sweeps were fixed before the run."""

CONVENTIONS = """\
The paper scores images in [-1, 1] with a peak of 1: its PSNR is 6.02 dB below, its MSE 4 times that of \
images in [0, 1]. Figures below are in the paper's convention; PSNR of [0, 1] is in brackets."""


def page_of(
    plan: ReproductionPlan, records: Sequence[Record], findings: Mapping[str, Sequence[Finding]]
) -> str:
    """Return the page of a run; the same records give the same text."""
    known = {record.cell: record for record in records}
    groups = {
        name: CellGroup(cells[0], tuple(known[cell] for cell in cells if cell in known))
        for name, cells in plan.groups.items()
    }
    parts = [
        _head(plan, records),
        _verdicts(plan, findings),
        *(_claim(claim, plan, groups, findings) for claim in plan.reproduction.claims),
        _settings(plan),
        _cost(plan, records),
        _files(plan),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(plan: ReproductionPlan, records: Sequence[Record]) -> str:
    known = plan.reproduction
    counts = {status: sum(r.status == status for r in records) for status in ("ok", "failed", "skipped")}
    planned = len({cell for spec in plan.specs.values() for cell in spec.cells()})
    specs = ", ".join(f"{name} {spec.hash}" for name, spec in plan.specs.items())
    needs = known.at(plan.scale)
    files = " --files FILES" if needs.files else ""
    command = f"ggl reproduce {known.name} --scale {plan.scale}{files} --out DIR"
    lines = [
        f"# Reproduction: {known.title}",
        f"{known.source}. Scale {plan.scale}: {needs.about}",
        f"Made by `{command}`{' with fewer images or evaluations' if plan.shortened else ''}, not by hand; "
        "with `--resume`, where all is done, it writes page and tables anew.",
        f"- code: {_every(r.commit for r in records)}",
        f"- device: {_every(r.device for r in records)}",
        f"- cells: {counts['ok']} of {planned} ok, {counts['failed']} failed, {counts['skipped']} skipped",
        f"- specs: {specs}",
        f"- claims, checks and tolerances: SHA-256 {known.digest[:16]}… of `{known.name}.toml`",
        *(f"- {reason}" for reason in _reasons(records)),
    ]
    text = "\n\n".join(lines[:3]) + "\n\n" + "\n".join(lines[3:])
    return text + (f"\n\n**Shortened: {_short(plan)}. No verdict is claimed.**" if plan.shortened else "")


def _short(plan: ReproductionPlan) -> str:
    cells = [cell for spec in plan.specs.values() for cell in spec.cells()]
    budgets = ", ".join(f"{budget:,}" for budget in sorted({cell.budget for cell in cells}))
    return f"{cells[0].images} images, {budgets} evaluations, {cells[0].ceiling_budget} for the ceiling"


def _reasons(records: Sequence[Record]) -> list[str]:
    """Return each reason for which cells failed or were skipped, once, with how many."""
    reasons = [f"{record.status}: {record.reason}" for record in records if record.status != "ok"]
    return [f"{reasons.count(reason)} {reason}" for reason in dict.fromkeys(reasons)]


def _every(values: Iterator[str]) -> str:
    return "; ".join(sorted({value for value in values if value})) or "unknown"


def _verdict(claim: Claim, plan: ReproductionPlan, findings: Mapping[str, Sequence[Finding]]) -> str:
    if claim.at(plan.scale).not_testable is not None:
        return "not testable here"
    return SHORTENED if plan.shortened else verdict_of(findings[claim.id])


def _verdicts(plan: ReproductionPlan, findings: Mapping[str, Sequence[Finding]]) -> str:
    rows = [
        (f"[{claim.place}](#{claim.id})", claim.statement, f"**{_verdict(claim, plan, findings)}**")
        for claim in plan.reproduction.claims
    ]
    return "\n\n".join(["## Verdicts", _table(("where", "claim", "verdict"), rows), VERDICTS, CONVENTIONS])


def _claim(
    claim: Claim,
    plan: ReproductionPlan,
    groups: Mapping[str, CellGroup],
    findings: Mapping[str, Sequence[Finding]],
) -> str:
    judged = claim.at(plan.scale)
    parts = [f'<a id="{claim.id}"></a>\n\n## {claim.place}: {claim.id}', claim.statement, claim.note]
    parts.append(f"Verdict: **{_verdict(claim, plan, findings)}**.")
    if judged.not_testable is not None:
        parts.append(f"Why: {judged.not_testable}.")
    if claim.reported:
        parts.append(_reported(claim.reported, plan.scale, groups))
    if judged.checks:
        found: Sequence[Finding | None] = findings.get(claim.id) or [None] * len(judged.checks)
        heads = ("a", "b", "metric", "rule", "a's figure", "b's figure", "a - b", "p", "n", "outcome", "why")
        rows = [_check(check, finding) for check, finding in zip(judged.checks, found, strict=True)]
        rules = dict.fromkeys(check.rule for check in judged.checks)
        parts += [_table(heads, rows), "\n".join(f"- `{rule}`: {RULES[rule]}." for rule in rules)]
    return "\n\n".join(part for part in parts if part)


def _reported(rows: Sequence[Reported], scale: str, groups: Mapping[str, CellGroup]) -> str:
    heads = (
        *("reported for", "MSE-I", "PSNR", "LPIPS (VGG)", "MSE-R"),
        *("ours", "MSE-I", "PSNR", "MSE-R", "leak score", "n"),
    )
    lines = []
    for row in rows:
        name = row.small if scale == "small" else row.paper
        group = groups.get(name) if name is not None else None
        reported = (row.what, f"{row.mse:.4f}", _both(row.psnr), _plain(row.lpips), _plain(row.mse_r))
        lines.append((*reported, *_ours(name, group)))
    return _table(heads, lines)


def _ours(name: str | None, group: CellGroup | None) -> tuple[str, ...]:
    if name is None or group is None or not group.n:
        return (name or NOTHING, *[NOTHING] * 5)
    mse, psnr = group.mean("attack", "mse"), group.mean("attack", "psnr_signed")
    mse_r = group.mean("attack", "feature_distance") if group.has("feature_distance") else None
    signed = None if mse is None else Interval(4 * mse.mean, 4 * mse.low, 4 * mse.high, mse.n)
    brackets = "" if psnr is None else f" ({psnr.mean + SIGNED_DB:.2f})"
    leak = None if group.leak is None else group.leak.interval
    return (
        name,
        _interval(signed, ".3g"),
        _interval(psnr, ".2f") + brackets,
        _interval(mse_r, ".3g"),
        _interval(leak, ".2f"),
        str(group.n),
    )


def _check(check: Check, finding: Finding | None) -> tuple[str, ...]:
    label = METRICS[check.metric].label if check.metric in METRICS else check.metric
    form = ".2f" if check.metric in DECIBELS or check.rule == "leaks" else ".3g"
    what = "leak score" if check.rule == "leaks" else label
    rule = f"`{check.rule}`" + ("" if check.tolerance is None else f", {_tolerance(check)}")
    other = check.b or (NOTHING if check.value is None else f"reported {check.value:g}")
    if finding is None:
        return (check.a, other, what, rule, *[NOTHING] * 5, SHORTENED, "")
    p_value = NOTHING if finding.p_value is None else f"{finding.p_value:.3g}"
    figures = [_interval(x, form) for x in (finding.a, finding.b, finding.difference)]
    return (check.a, other, what, rule, *figures, p_value, str(finding.n), finding.outcome, finding.why)


def _tolerance(check: Check) -> str:
    tolerance = check.tolerance or 0.0
    return f"{tolerance:g} dB" if check.metric in DECIBELS else f"{100 * tolerance:g} %"


def _settings(plan: ReproductionPlan) -> str:
    rows = [
        (s.what, s.theirs, s.small if plan.scale == "small" else s.paper) for s in plan.reproduction.settings
    ]
    return "## Settings, theirs and ours\n\n" + _table(("setting", "theirs", "here"), rows)


def _cost(plan: ReproductionPlan, records: Sequence[Record]) -> str:
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
    rows.append(("all that was measured", "", "", f"{total:.3g}"))
    heads = ("sweep", "evaluations, controls included", "a second, of one process", "hours of one process")
    words = (
        f"By the rate of this run, on {_every(r.device for r in records)}; a process is a GPU's where the "
        "device is one. The inversions behind the ceilings come on top. A rate at a tiny budget or with one "
        "image is a low one."
    )
    return f"## What the whole scale costs\n\n{words}\n\n{_table(heads, rows)}"


def _files(plan: ReproductionPlan) -> str:
    files = plan.reproduction.at("paper").files
    if not files:
        return ""
    rows = [(f"`{needed.path}`", needed.source) for needed in files]
    command = f"`ggl reproduce {plan.reproduction.name} --scale paper --files DIR --out OUT`"
    return f"## Files of the paper scale\n\n{command} needs in DIR:\n\n{_table(('name', 'from'), rows)}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[text.replace("|", "\\|") for text in row] for row in (heads, ["---"] * len(heads), *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _both(decibels: float) -> str:
    return f"{decibels:.2f} ({decibels + SIGNED_DB:.2f})"


def _plain(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4f}"


def _interval(interval: Interval | None, form: str) -> str:
    if interval is None or math.isnan(interval.mean):
        return NOTHING
    if math.isnan(interval.low):
        return f"{interval.mean:{form}}"
    return f"{interval.mean:{form}} [{interval.low:{form}}, {interval.high:{form}}]"
