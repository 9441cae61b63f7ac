"""What `ggl audit --dry-run` prints: what the audit would take on this machine."""

from rich.console import Console

from ggl.audits.dry_run import ForeseenWork, Prospect
from ggl.base.durations import duration_text
from ggl.captures.reconstruct import CONTROLS
from ggl.commands.audit_plan import AuditPlan
from ggl.commands.console import summary_table

__all__ = ["print_prospect", "print_uncompared"]

HEADINGS = ("defense", "attacker", "strategy", "searches", "evaluations", "one thread")
TIMED = """\
estimated from a few generations of each cell's own searches, timed here and now and thrown away, and for a
machine that does nothing else; loading, scoring and the page take some seconds more"""
NOTHING_WRITTEN = "dry run: everything was checked that can be without searching; nothing was written"


def print_prospect(found: Prospect, plan: AuditPlan, console: Console) -> None:
    """Print a table of the cells, and what all of them take: evaluations, time and memory."""
    rows = [(cell.defense, cell.attacker, cell.strategy, *_figures(cell.work)) for cell in found.cells]
    if found.ceiling.searches:
        rows.append(("", "", "ceiling: adam", *_figures(found.ceiling)))
    console.print(summary_table(f"{plan.victim}, {plan.prior}: what would be searched", HEADINGS, rows))
    for line in prospect_lines(found):
        console.print(line, markup=False)


def prospect_lines(found: Prospect) -> list[str]:
    """Return what an audit would take, in words."""
    ceiling, searches = found.ceiling.evaluations, sum(cell.work.searches for cell in found.cells)
    work = duration_text(sum(sum(part.seconds) for part in found.work))
    bound = "at least" if any(part.at_least for part in found.work) else "about"
    workers = f"{found.workers} worker{'s' * (found.workers > 1)}"
    gib = found.memory / 2**30
    several = f"; {workers} take about as much each, {found.workers * gib:.1f} GiB" * (found.workers > 1)
    return [
        *found.notes,
        f"cells: {len(found.cells):,}; {searches:,} searches, of private, sibling and noise gradients",
        f"evaluations: {found.evaluations:,} at most; {found.evaluations - ceiling:,} of the cells, controls "
        f"included, and {ceiling:,} of the ceiling",
        f"time: {bound} {duration_text(found.seconds)} with {workers} of one thread, from {work} of work",
        TIMED,
        f"memory: {gib:.1f} GiB, the peak of this process meanwhile{several}",
        NOTHING_WRITTEN,
    ]


def print_uncompared(plan: AuditPlan, console: Console) -> None:
    """Print what an update takes whose images nobody knows: it has no cells."""
    searches = 1 + 2 * CONTROLS
    console.print(
        f"evaluations: {searches * plan.budget:,} at most, of {searches} searches: the captured update, "
        f"{CONTROLS} of other images and {CONTROLS} of noise; their time is not estimated without --truth"
    )
    console.print(NOTHING_WRITTEN)


def _figures(work: ForeseenWork) -> tuple[str, str, str]:
    bound = "at least " if work.at_least else ""
    return f"{work.searches:,}", f"{work.evaluations:,}", bound + duration_text(sum(work.seconds))
