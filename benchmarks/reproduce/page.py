"""A reproduction's page: what is claimed, what was found, and what that comes to, in Markdown."""

from collections.abc import Mapping, Sequence

from ggl.benchmarks.report.rows import Row
from ggl.benchmarks.reproduce.claims import RULES, Check
from ggl.benchmarks.reproduce.costs import cost_of
from ggl.benchmarks.reproduce.file import Claim
from ggl.benchmarks.reproduce.groups import Group, groups_of_plan
from ggl.benchmarks.reproduce.judging import DECIBELS, SHARES, Finding, verdict_of
from ggl.benchmarks.reproduce.markdown import NOTHING, every, interval_text, markdown_table
from ggl.benchmarks.reproduce.measuring import Measured
from ggl.benchmarks.reproduce.plan import ReproductionPlan
from ggl.benchmarks.reproduce.reported import CONVENTIONS, is_signed, reported_tables
from ggl.benchmarks.reproduce.worst_cases import worst_cases, worst_counts, worst_table
from ggl.benchmarks.sweeps.records import Record
from ggl.measures.metrics import METRICS

__all__ = ["page_of"]

SHORTENED = "not judged: shortened"

SUMMARY = {
    "reproduced": "Holds:",
    "partly": "Holds in part:",
    "not": "Does not hold:",
    "undecided": "Undecided:",
    "not testable here": "Not testable here:",
}
TODAY = "What the strongest attackers of today make of it:"

VERDICTS = """\
**reproduced**: every check holds. **partly**: some hold, some fail. **not**: all fail. **undecided**: a \
check has too few images, or an interval that allows both. **not testable here**: for the reason given. \
Intervals are of 95 %, over images. Claims, checks, tolerances and sweeps were fixed before the run."""


def page_of(
    plan: ReproductionPlan,
    records: Sequence[Record],
    measured: Measured,
    findings: Mapping[str, Sequence[Finding]],
) -> str:
    """Return the page of a run; the same records and rows give the same text."""
    groups = groups_of_plan(plan, records, measured)
    worst = [] if plan.shortened else worst_cases(records)
    parts = [
        f"# Reproduction: {plan.reproduction.title}",
        _summary(plan, findings, worst),
        _head(plan, records, measured),
        _verdicts(plan, findings),
        worst_table(worst),
        *(_claim(claim, plan, groups, findings) for claim in plan.reproduction.claims),
        _settings(plan),
        cost_of(plan, records, measured),
        _files(plan),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(plan: ReproductionPlan, findings: Mapping[str, Sequence[Finding]], worst: Sequence[Row]) -> str:
    """Return what holds, what does not, and what attackers of today make of it, a line each."""
    if plan.shortened:
        return ""
    counts = worst_counts(worst)
    said: dict[str, list[str]] = {TODAY: [counts]} if counts else {}
    for claim in plan.reproduction.claims:
        verdict = _verdict(claim, plan, findings)
        heading = TODAY if claim.today else SUMMARY[verdict]
        words = f"{claim.statement} ({f'**{verdict}**, ' if claim.today else ''}[{claim.id}](#{claim.id}))"
        said.setdefault(heading, []).append(words)
    order = dict.fromkeys((*SUMMARY.values(), TODAY))
    return "\n".join(f"- **{heading}** {' '.join(said[heading])}" for heading in order if heading in said)


def _head(plan: ReproductionPlan, records: Sequence[Record], measured: Measured) -> str:
    known = plan.reproduction
    counts = {status: sum(r.status == status for r in records) for status in ("ok", "failed", "skipped")}
    planned = len({cell for spec in plan.specs.values() for cell in spec.cells()})
    specs = ", ".join(f"{name} {digest}" for name, digest in plan.hashes.items())
    needs = known.at(plan.scale)
    files = " --files FILES" if needs.files else ""
    rows = ", ".join(f"{name} {len(measured.rows.get(name, []))} rows" for name in plan.measured)
    command = f"ggl reproduce {known.name} --scale {plan.scale}{files} --out DIR"
    sweeps = [
        f"- device: {every(r.device for r in records)}",
        f"- cells: {counts['ok']} of {planned} ok, {counts['failed']} failed, {counts['skipped']} skipped",
        f"- specs: {specs}",
    ]
    lines = [
        f"{known.source}. Scale {plan.scale}: {needs.about}",
        f"Made by `{command}`{' with fewer images or evaluations' if plan.shortened else ''}, not by hand; "
        "with `--resume`, where all is done, it writes page and tables anew.",
        f"- code: {every((*(r.commit for r in records), *measured.commits))}",
        *(sweeps if specs else []),
        *([f"- measured: {rows}"] if rows else []),
        f"- claims, checks and tolerances: SHA-256 {known.digest[:16]}… of `{known.name}.toml`",
        *(f"- {reason}" for reason in _reasons(records)),
        *(f"- failed: {reason}" for reason in measured.failures),
        *(f"- left out: {reason}" for reason in dict.fromkeys(plan.missing.values())),
    ]
    text = "\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:])
    return text + (f"\n\n**Shortened: {_short(plan)}. No verdict is claimed.**" if plan.shortened else "")


def _short(plan: ReproductionPlan) -> str:
    cells = [cell for spec in plan.specs.values() for cell in spec.cells()]
    if not cells:
        return "fewer images, rounds or evaluations"
    budgets = ", ".join(f"{budget:,}" for budget in sorted({cell.budget for cell in cells}))
    return f"{cells[0].images} images, {budgets} evaluations, {cells[0].ceiling_budget} for the ceiling"


def _reasons(records: Sequence[Record]) -> list[str]:
    """Return each reason for which cells failed or were skipped, once, with how many."""
    reasons = [f"{record.status}: {record.reason}" for record in records if record.status != "ok"]
    return [f"{reasons.count(reason)} {reason}" for reason in dict.fromkeys(reasons)]


def _verdict(claim: Claim, plan: ReproductionPlan, findings: Mapping[str, Sequence[Finding]]) -> str:
    if claim.at(plan.scale).not_testable is not None:
        return "not testable here"
    return SHORTENED if plan.shortened else verdict_of(findings[claim.id])


def _verdicts(plan: ReproductionPlan, findings: Mapping[str, Sequence[Finding]]) -> str:
    rows = [
        (f"[{claim.place}](#{claim.id})", claim.statement, f"**{_verdict(claim, plan, findings)}**")
        for claim in plan.reproduction.claims
    ]
    signed = any(is_signed(row) for claim in plan.reproduction.claims for row in claim.reported)
    table = markdown_table(("where", "claim", "verdict"), rows)
    checks = [check for claim in plan.reproduction.claims for check in claim.at(plan.scale).checks]
    rules = "\n".join(f"- `{rule}`: {RULES[rule]}." for rule in dict.fromkeys(check.rule for check in checks))
    return "\n\n".join(["## Verdicts", table, VERDICTS, rules, *([CONVENTIONS] if signed else [])])


def _claim(
    claim: Claim,
    plan: ReproductionPlan,
    groups: Mapping[str, Group],
    findings: Mapping[str, Sequence[Finding]],
) -> str:
    judged = claim.at(plan.scale)
    parts = [f'<a id="{claim.id}"></a>\n\n## {claim.place}: {claim.id}', claim.statement, claim.note]
    parts.append(f"Verdict: **{_verdict(claim, plan, findings)}**.")
    if judged.not_testable is not None:
        parts.append(f"Why: {judged.not_testable}.")
    parts += reported_tables(claim.reported, plan.scale, groups)
    if judged.checks:
        found: Sequence[Finding | None] = findings.get(claim.id) or [None] * len(judged.checks)
        heads = ("a", "b", "metric", "rule", "a's figure", "b's figure", "a - b", "p", "n", "outcome", "why")
        rows = [_check(check, finding) for check, finding in zip(judged.checks, found, strict=True)]
        parts.append(markdown_table(heads, rows))
    return "\n\n".join(part for part in parts if part)


def _check(check: Check, finding: Finding | None) -> tuple[str, ...]:
    label = METRICS[check.metric].label if check.metric in METRICS else check.metric
    form = ".2f" if check.metric in DECIBELS or check.rule == "leaks" else ".3g"
    what = "leak score" if check.rule == "leaks" else label
    rule = f"`{check.rule}`" + ("" if check.tolerance is None else f", {_tolerance(check)}")
    value = "" if check.value is None else f"{'reported ' if check.rule == 'near' else ''}{check.value:g}"
    other = ", ".join(part for part in (check.b, value) if part) or NOTHING
    if finding is None:
        return (check.a, other, what, rule, *[NOTHING] * 5, SHORTENED, "")
    p_value = NOTHING if finding.p_value is None else f"{finding.p_value:.3g}"
    figures = [interval_text(x, form) for x in (finding.a, finding.b, finding.difference)]
    return (check.a, other, what, rule, *figures, p_value, str(finding.n), finding.outcome, finding.why)


def _tolerance(check: Check) -> str:
    tolerance = check.tolerance or 0.0
    if check.metric in DECIBELS:
        return f"{tolerance:g} dB"
    return f"{tolerance:g}" if check.metric in SHARES else f"{100 * tolerance:g} %"


def _settings(plan: ReproductionPlan) -> str:
    rows = [
        (s.what, s.theirs, s.small if plan.scale == "small" else s.paper) for s in plan.reproduction.settings
    ]
    return "## Settings, theirs and ours\n\n" + markdown_table(("setting", "theirs", "here"), rows)


def _files(plan: ReproductionPlan) -> str:
    files = plan.reproduction.at("paper").files
    if not files:
        return ""
    rows = [(f"`{needed.path}`", needed.source) for needed in files]
    command = f"`ggl reproduce {plan.reproduction.name} --scale paper --files DIR --out OUT`"
    return (
        f"## Files of the paper scale\n\n{command} needs in DIR:\n\n{markdown_table(('name', 'from'), rows)}"
    )
