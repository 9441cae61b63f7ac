"""Audits as the command line runs them: inputs checked first, progress shown, results in a folder."""

import inspect
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from ggl.audit import audit
from ggl.audit_cells import Stage
from ggl.audit_inputs import AuditPlan, Inputs, load_inputs
from ggl.base.devices import find_device
from ggl.base.errors import CheckpointError, GGLError, InputError
from ggl.base.registry import Registry
from ggl.costs import read_utility
from ggl.defenses import defenses
from ggl.generators import priors
from ggl.lpips import LPIPS_HINT, load_lpips
from ggl.optimizers import strategies
from ggl.reconstruct import reconstruct
from ggl.reconstruction import Reconstruction
from ggl.report import Report
from ggl.templates import check_page
from ggl.victims import victims

__all__ = [
    "DEMO",
    "check_folder",
    "check_place",
    "count_bars",
    "describe",
    "progress_bars",
    "run",
    "summary_table",
]

DEMO: dict[str, Any] = {
    "victim": "lenet",
    "data": "fashion-mnist-heldout",
    "prior": "fashion-dcgan32",
    "defenses": ("none", "noise:0.1", "noise:3", "prune:0.99"),
    "attackers": ("naive", "adaptive"),
}
"""What `ggl demo` audits."""

CHECKPOINTS = ".ggl-checkpoints"
RESULT = "result.json"
LOG_WIDTH = 132
INTERVALS = ("leak score", "identified")
LEGEND = """\
leak score: 0 is what the class alone gives away, 1 all that the prior can say
identified: how often the private image ranks first among its decoys; 95 % intervals"""
STANDS_OUT = """\
it matches better than every control, by more than the attack gains on noise: the update says more of its
images than their labels"""
NOTHING_FOUND = """\
it does not match better than every control by more than the attack gains on noise: nothing was found in the
update beyond its labels"""
DOUBTFUL = """\
every control matches its own update better: check the victim's weights and mode, the defense, the batch
size, the labels and the local steps"""
HEADINGS = ("defense", "attacker", "strategy", "leak score", "identified", "PSNR", "control PSNR", "verdict")
WORST = "worst case over attackers and strategies"
WORST_HEADINGS = ("defense", "leak score", "verdict", "attacker", "strategy")


def run(plan: AuditPlan, resume: bool, *, overwrite: bool = False) -> None:
    """Run the audit, save it in the plan's folder, and print its table.

    Args:
        plan: what to audit.
        resume: continue what a killed run left in the folder.
        overwrite: replace an earlier run's results instead of refusing.
    """
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH, highlight=False)
    if overwrite and not resume:
        check_folder(plan.out)
        shutil.rmtree(plan.out / CHECKPOINTS, ignore_errors=True)
    else:
        check_place(plan.out, resume, checkpoints=CHECKPOINTS, result=RESULT)
    check_page()
    utility = None if plan.utility is None else read_utility(plan.utility, plan.victim)
    new = not plan.out.exists()
    try:
        report = _audit(plan, console)
    except GGLError:
        if new and not (plan.out / CHECKPOINTS).is_dir():
            shutil.rmtree(plan.out, ignore_errors=True)
        raise
    except KeyboardInterrupt:
        if (plan.out / CHECKPOINTS).is_dir():
            console.print("interrupted; the same command with --resume goes on")
        raise
    if isinstance(report, Reconstruction):
        result = report.save(plan.out)
    else:
        result = replace(report, utility=utility).save(plan.out)
    shutil.rmtree(plan.out / CHECKPOINTS, ignore_errors=True)
    _print(result, plan, console)


def describe(kind: str) -> dict[str, str]:
    """Return the first line of what is registered, by name, for "priors", "strategies" and so on."""
    kinds: dict[str, Registry[Any]] = {
        "priors": priors,
        "strategies": strategies,
        "defenses": defenses,
        "victims": victims,
    }
    table = kinds[kind]
    return {name: (inspect.getdoc(table[name]) or "").partition("\n")[0] for name in table.names()}


def check_folder(out: Path) -> None:
    """Refuse a place for results that is no folder or cannot be written to; nothing is created."""
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise InputError(f"{out}: expected a folder for the results, but {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{out}: expected a folder that can be written to, but {there} cannot")


def check_place(out: Path, resume: bool, *, checkpoints: str, result: str) -> None:
    """Refuse a folder that holds another such run; nothing is created.

    Args:
        out: the folder.
        resume: whether an unfinished run there is to be continued.
        checkpoints: name of the folder in it that an unfinished run leaves.
        result: name of the file in it that a finished run leaves.

    Raises:
        CheckpointError: there is nothing to resume.
        InputError: a run lies there, or the folder cannot be written to.
    """
    check_folder(out)
    unfinished = (out / checkpoints).is_dir()
    if resume and not unfinished:
        raise CheckpointError(f"{out}: holds no unfinished run to resume; leave --resume out")
    if resume:
        return
    if unfinished:
        raise InputError(f"{out}: holds an unfinished run; add --resume, or choose another folder")
    if (out / result).exists():
        raise InputError(f"{out}: holds a finished run already; choose another folder")


def _audit(plan: AuditPlan, console: Console) -> Report | Reconstruction:
    device = find_device(plan.device)
    inputs = load_inputs(plan, console.print)
    if load_lpips() is None:
        console.print(LPIPS_HINT, markup=False)
    with progress_bars(console) as stage:
        if inputs.images is None or inputs.labels is None:
            return _reconstruct(plan, inputs, device, stage)
        report = audit(
            inputs.victim.to(device),
            inputs.images,
            inputs.labels,
            prior=inputs.prior,
            defenses=plan.defenses,
            strategies=plan.strategies,
            attackers=plan.attackers,
            budget=plan.budget,
            ceiling_budget=plan.ceiling_budget,
            seed=plan.seed,
            decoys=(inputs.pool.images, inputs.pool.labels),
            distance=plan.distance,
            latents=plan.latents,
            batch_size=plan.batch_size if inputs.shared is None else len(inputs.images),
            label_rule=plan.label_rule or "known",
            local=inputs.local,
            captured=None if inputs.shared is None else [inputs.shared],
            backend=plan.backend,
            precision=plan.precision,
            round=plan.round,
            rounds=plan.rounds,
            checkpoints=plan.out / CHECKPOINTS,
            progress=stage,
        )
    return replace(report, settings={**report.settings, **_asked(plan, inputs)})


def _reconstruct(plan: AuditPlan, inputs: Inputs, device: torch.device, stage: Stage) -> Reconstruction:
    """Attack a captured update whose images nobody knows."""
    found = reconstruct(
        inputs.victim.to(device),
        inputs.shared or {},
        prior=inputs.prior,
        pool=(inputs.pool.images, inputs.pool.labels),
        batch_size=plan.batch_size,
        labels=inputs.labels,
        label_rule=plan.label_rule,
        defense=plan.defenses[0],
        attacker=plan.attackers[0],
        strategy=plan.strategies[0],
        distance=plan.distance,
        latents=plan.latents,
        local=inputs.local,
        budget=plan.budget,
        seed=plan.seed,
        backend=plan.backend,
        precision=plan.precision,
        round=plan.round,
        rounds=plan.rounds,
        checkpoints=plan.out / CHECKPOINTS,
        progress=stage,
    )
    return replace(found, settings={**found.settings, **_asked(plan, inputs)})


def _asked(plan: AuditPlan, inputs: Inputs) -> dict[str, object]:
    """Return what a result's settings say beside those of the Python call."""
    rate = inputs.learning_rate
    return {**plan.asked(), "estimated_learning_rate": None if rate is None else rate.to_dict()}


@contextmanager
def progress_bars(console: Console) -> Iterator[Stage]:
    """Show a bar for each stage, with evaluations per second and the mean best loss."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[rate]:.0f}/s, best loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as bars:

        def stage(title: str, done: int, planned: int, loss: float) -> None:
            if title not in tasks:
                tasks[title] = bars.add_task(title, total=planned, rate=0.0, loss=loss)
            speed = bars.tasks[tasks[title]].speed or 0.0
            bars.update(tasks[title], completed=done, rate=speed, loss=loss)

        yield stage


@contextmanager
def count_bars(console: Console, unit: str = "") -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for each stage, its title called with what is done and what there is to do."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn(f"{{task.completed}}/{{task.total}} {unit}"),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as bars:

        def stage(title: str, done: int, planned: int) -> None:
            if title not in tasks:
                tasks[title] = bars.add_task(title, total=planned)
            bars.update(tasks[title], completed=done)

        yield stage


def _print(result: Any, plan: AuditPlan, console: Console) -> None:
    if "control_gap" in result:
        _print_match(result, console)
    else:
        _print_cells(result, plan, console)
    console.print(f"report: {plan.out / 'report.html'}", soft_wrap=True)


def _print_match(result: Any, console: Console) -> None:
    """Say what may be said without the private images: no score."""
    gap, updates = result["control_gap"], result["updates"]
    gaps = {
        kind: [u["gap"] for u in updates if u["update"].startswith(kind)] for kind in ("control", "noise")
    }
    console.print(f"labels: {', '.join(map(str, result['labels']))}")
    console.print(
        f"match to the captured update: {result['match']:.4f}, better than the controls' by "
        f"{gap['mean']:.4f} [{gap['low']:.4f}, {gap['high']:.4f}]"
    )
    for kind, found in gaps.items():
        console.print(f"the same gap of {kind} updates: {min(found):.4f} to {max(found):.4f}")
    console.print(STANDS_OUT if result["stands_out"] else NOTHING_FOUND)
    if result["settings_doubtful"]:
        console.print(DOUBTFUL)


def _print_cells(result: Any, plan: AuditPlan, console: Console) -> None:
    images = result["settings"]["images"]
    title = f"{plan.victim}, {plan.prior}, {images} images, {plan.budget} evaluations"
    console.print(summary_table(title, HEADINGS, [_row(cell) for cell in result["results"]]))
    if len(result["worst_case"]) < len(result["results"]):
        rows = [
            (cell["defense"], _interval(cell["leak_score"]), *(cell[key] for key in WORST_HEADINGS[2:]))
            for cell in result["worst_case"]
        ]
        console.print(summary_table(WORST, WORST_HEADINGS, rows))
    console.print(f"ceiling of the prior: {result['ceiling']['psnr']['mean']:.1f} dB PSNR")
    console.print(LEGEND)


def summary_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table of texts for the terminal."""
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, no_wrap=heading in INTERVALS)
    for row in rows:
        table.add_row(*row)
    return table


def _row(cell: Any) -> list[str]:
    leak = cell["leak_score"]
    return [
        cell["defense"],
        cell["attacker"],
        cell["strategy"],
        _interval(leak),
        _interval(cell["identification"]),
        f"{cell['psnr']['mean']:.1f}",
        f"{cell['controls'][leak['control']]['psnr']['mean']:.1f} ({leak['control']})",
        cell["verdict"],
    ]


def _interval(values: dict[str, float | None]) -> str:
    if None in (values["mean"], values["low"], values["high"]):
        return "undefined"
    return f"{values['mean']:.2f} [{values['low']:.2f}, {values['high']:.2f}]"
