"""Audits as the command line runs them: inputs checked first, progress shown, results in a folder."""

import inspect
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from ggl.audit import Stage, audit
from ggl.base.devices import find_device
from ggl.base.errors import CheckpointError, GGLError, InputError
from ggl.base.registry import Registry
from ggl.base.weights import sha256
from ggl.controls import pick_private
from ggl.costs import read_utility
from ggl.datasets import load_dataset
from ggl.defenses import defenses
from ggl.generators import Prior, load_prior, priors
from ggl.lpips import LPIPS_HINT, load_lpips
from ggl.optimizers import strategies
from ggl.report import Report
from ggl.templates import check_page
from ggl.victims import load_victim, victims

__all__ = [
    "DEMO",
    "AuditPlan",
    "check_class_folders",
    "check_folder",
    "check_place",
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
HEADINGS = ("defense", "attacker", "strategy", "leak score", "identified", "PSNR", "control PSNR", "verdict")
WORST = "worst case over attackers and strategies"
WORST_HEADINGS = ("defense", "leak score", "verdict", "attacker", "strategy")


@dataclass(frozen=True)
class AuditPlan:
    """Everything that `ggl audit` was asked for; names as on the command line."""

    victim: str
    data: str
    prior: str
    defenses: tuple[str, ...]
    attackers: tuple[str, ...]
    out: Path
    images: int
    budget: int
    seed: int
    device: str
    ceiling_budget: int | None = None
    strategies: tuple[str, ...] = ("cma-es",)
    victim_weights: Path | None = None
    split: str = "test"
    fit: str | None = None
    distance: str = "cosine"
    latents: str | None = None
    backend: str = "auto"
    precision: str = "float32"
    round: int = 0
    rounds: int = 10_000
    utility: Path | None = None


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


def check_class_folders(data: str, prior: Prior, hint: str = "") -> None:
    """Refuse class folders whose order, not whose names, would choose a conditional prior's classes."""
    folder = Path(data).expanduser()
    if prior.num_classes is None or not folder.is_dir():
        return
    for child in sorted(folder.iterdir()):
        if child.is_dir() and not child.name.startswith(".") and not child.name.isdigit():
            raise InputError(
                f"{folder}: prior {prior.name} draws by class: expected folders named by its labels, "
                f"0 to {prior.num_classes - 1}, found {child.name!r}{hint}"
            )


def _audit(plan: AuditPlan, console: Console) -> Report:
    device = find_device(plan.device)
    prior = load_prior(plan.prior)
    data = load_dataset(plan.data, image_shape=prior.image_shape, fit=plan.fit, split=plan.split)
    prior.check_labels(data.labels)
    check_class_folders(plan.data, prior)
    if load_lpips() is None:
        console.print(LPIPS_HINT, markup=False)
    channels, size, _ = prior.image_shape
    victim = load_victim(
        plan.victim,
        in_channels=channels,
        num_classes=prior.num_classes or data.num_classes,
        image_size=size,
        seed=plan.seed,
        weights=plan.victim_weights,
    )
    chosen = pick_private(data.labels, plan.images, plan.seed)
    with progress_bars(console) as stage:
        report = audit(
            victim.to(device),
            data.images[chosen],
            data.labels[chosen],
            prior=prior,
            defenses=plan.defenses,
            strategies=plan.strategies,
            attackers=plan.attackers,
            budget=plan.budget,
            ceiling_budget=plan.ceiling_budget,
            seed=plan.seed,
            decoys=(data.images, data.labels),
            distance=plan.distance,
            latents=plan.latents,
            backend=plan.backend,
            precision=plan.precision,
            round=plan.round,
            rounds=plan.rounds,
            checkpoints=plan.out / CHECKPOINTS,
            progress=stage,
        )
    return replace(report, settings={**report.settings, **_asked(plan)})


def _asked(plan: AuditPlan) -> dict[str, object]:
    """Return what identifies the victim and the data of an audit, for its settings."""
    weights = plan.victim_weights
    return {
        "victim": plan.victim,
        "victim_weights": None if weights is None else f"{weights.name}, SHA-256 {sha256(weights)}",
        "data": plan.data,
        "split": plan.split,
        "fit": plan.fit,
    }


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


def _print(result: Any, plan: AuditPlan, console: Console) -> None:
    title = f"{plan.victim}, {plan.prior}, {plan.images} images, {plan.budget} evaluations"
    console.print(summary_table(title, HEADINGS, [_row(cell) for cell in result["results"]]))
    if len(result["worst_case"]) < len(result["results"]):
        rows = [
            (cell["defense"], _interval(cell["leak_score"]), *(cell[key] for key in WORST_HEADINGS[2:]))
            for cell in result["worst_case"]
        ]
        console.print(summary_table(WORST, WORST_HEADINGS, rows))
    console.print(f"ceiling of the prior: {result['ceiling']['psnr']['mean']:.1f} dB PSNR")
    console.print(LEGEND)
    console.print(f"report: {plan.out / 'report.html'}", soft_wrap=True)


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
