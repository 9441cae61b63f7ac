"""What the terminal says of an audit that has ended."""

from typing import Any

from rich.console import Console

from ggl.audits.attackers import ALL
from ggl.audits.next_steps import next_steps
from ggl.base.words import listed
from ggl.commands.audit_plan import AuditPlan
from ggl.commands.console import interval_text, summary_table
from ggl.commands.guarantee import AT_MOST, bound_lines, bound_text
from ggl.commands.ladder_table import print_ladder

__all__ = ["alike_lines", "print_summary"]

LEGEND = """\
leak score: 0 is what the class alone gives away, 1 all that the prior can say
identified: how often the private image ranks first among its decoys; 95 % intervals
recognizable: at 95 %, with chance and the number of attacks on a defense taken off"""
CORRECTED = "verdicts, and the worst case's leak scores, are corrected for the number of a defense's cells"
STANDS_OUT = """\
it matches better than every control, by more than the attack gains on noise: the update says more of its
images than their labels"""
NOTHING_FOUND = """\
it does not match better than every control by more than the attack gains on noise: nothing was found in the
update beyond its labels"""
DOUBTFUL = """\
every control matches its own update better: check the victim's weights and mode, the defense, the batch
size, the labels and the local steps"""
WITHHELD = "leak scores are withheld: correct the settings, or give --force to have them all the same"
FORCED = (
    "leak scores are given all the same, as --force asks: they are of images that may not be the client's"
)
UNCOMPARED = "whether this is the client's image only its owner can say: with --truth FILE it is scored"
HEADINGS = ("defense", "attacker", "strategy", "leak score", "identified", "PSNR", "control PSNR", "verdict")
WORST = "worst case over attackers and strategies"
WORST_HEADINGS = ("defense", "leak score", "verdict", "uncorrected", "of", "attacker", "strategy")


def print_summary(result: Any, plan: AuditPlan, console: Console) -> None:
    """Print what an audit, or a reconstruction without the private images, found."""
    if "control_gap" in result:
        _print_match(result, console)
    else:
        _print_cells(result, plan, console)
    console.print(f"report: {plan.out / 'report.html'}", soft_wrap=True)
    for step in [UNCOMPARED] if "control_gap" in result else next_steps(result):
        console.print(f"next, with ggl audit: {step}", markup=False, soft_wrap=True)


def _print_match(result: Any, console: Console) -> None:
    """Say what may be said without the private images: no score."""
    gap, updates = result["control_gap"], result["updates"]
    gaps = {
        kind: [u["gap"] for u in updates if u["update"].startswith(kind)] for kind in ("control", "noise")
    }
    console.print(f"labels: {', '.join(map(str, result['labels']))}")
    console.print(
        f"match to the captured update: {result['match']:.4f}, better than the controls' by "
        f"{gap['mean']:.4f} (over the controls [{gap['low']:.4f}, {gap['high']:.4f}])"
    )
    for kind, found in gaps.items():
        console.print(f"the same gap of {kind} updates: {min(found):.4f} to {max(found):.4f}")
    console.print(STANDS_OUT if result["stands_out"] else NOTHING_FOUND)
    if result["settings_doubtful"]:
        console.print(DOUBTFUL)


def _print_cells(result: Any, plan: AuditPlan, console: Console) -> None:
    images = result["settings"]["images"]
    title = f"{plan.victim}, {plan.prior}, {images} images, {plan.budget} evaluations"
    cells = result["results"]
    proved = bool(bound_lines(cells))
    headings = (*HEADINGS[:5], AT_MOST, *HEADINGS[5:]) if proved else HEADINGS
    if result["ladder"] is not None:
        print_ladder(result, title, console)
    else:
        console.print(summary_table(title, headings, [_row(cell, proved) for cell in cells]))
    if result["ladder"] is None and len(result["worst_case"]) < len(result["results"]):
        rows = [
            (
                *(cell["defense"], interval_text(cell["corrected"]), cell["corrected"]["verdict"]),
                f"{interval_text(cell['leak_score'])} {cell['verdict']}",
                *(str(cell["corrected"]["looks"]), cell["attacker"], cell["strategy"]),
            )
            for cell in result["worst_case"]
        ]
        console.print(summary_table(WORST, WORST_HEADINGS, rows))
        console.print(CORRECTED)
    for line in alike_lines(result):
        console.print(line, markup=False)
    for cell in result["worst_case"]:
        if (people := cell["people"]) is not None:
            console.print(f"{cell['defense']}: {people['said']} ({people['rests_on']})", markup=False)
    console.print(f"ceiling of the prior: {result['ceiling']['psnr']['mean']:.1f} dB PSNR")
    console.print(LEGEND)
    for line in bound_lines(cells):
        console.print(line, markup=False)
    truth = result["truth"]
    if truth is not None and truth["verdict"] == "doubtful":
        for line in [*truth["said"], WITHHELD if truth["scores_withheld"] else FORCED]:
            console.print(line, markup=False)


def alike_lines(result: Any) -> list[str]:
    """Return which attackers that were asked for are not in the table, since they do what another does."""
    asked = result["settings"].get("attackers") or ()  # a ladder chooses its own
    found = {
        (cell["defense"], cell["attacker"]): [a for a in cell["attackers_alike"] if {a, ALL} & {*asked}]
        for cell in result["results"]
    }
    return [
        f"under {defense}, {listed(others)} would do what {attacker} does: counted once"
        for (defense, attacker), others in found.items()
        if others
    ]


def _row(cell: Any, proved: bool) -> list[str]:
    leak = cell["leak_score"]
    row = [
        cell["defense"],
        cell["attacker"],
        cell["strategy"],
        interval_text(leak),
        interval_text(cell["identification"]),
        f"{cell['psnr']['mean']:.1f}",
        f"{cell['controls'][leak['control']]['psnr']['mean']:.1f} ({leak['control']})",
        cell["corrected"]["verdict"],
    ]
    return [*row[:5], bound_text(cell), *row[5:]] if proved else row
