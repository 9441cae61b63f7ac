"""Prior reports as the command line runs them: inputs checked first, progress shown, results in a folder."""

import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ggl.base.devices import find_device
from ggl.base.errors import InputError
from ggl.commands.audit_inputs import check_classes
from ggl.commands.console import LOG_WIDTH, progress_bars, summary_table
from ggl.commands.folders import check_place
from ggl.datasets.loading import Dataset, load_dataset
from ggl.generators import Prior, load_prior
from ggl.measures.lpips import LPIPS_HINT, load_lpips, lpips_note
from ggl.pages.templates import check_page
from ggl.prior_reports.findings import PriorReport
from ggl.prior_reports.page import RESULT, save
from ggl.prior_reports.report import prior_report

__all__ = ["PriorPlan", "run_prior_report"]

CHECKPOINTS = ".ggl-prior-checkpoints"
NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.+)")
HEADINGS = ("data set", "classes", "PSNR", "strongest control", "its PSNR", "gain, dB", "p")
LEGEND = """\
PSNR: mean of the images' inversions; more evaluations, or another strategy, may come nearer
gain: above the strongest control, image by image; 95 % interval, paired test"""


@dataclass(frozen=True)
class PriorPlan:
    """Everything that `ggl prior-report` was asked for.

    Attributes:
        data: sources of images, each as `load_dataset` takes it, with NAME= before it or not; none for the
            prior's own held-out set.
    """

    prior: str
    data: tuple[str, ...]
    out: Path
    split: str = "test"
    fit: str | None = None
    images: int = 10
    budget: int = 2000
    strategy: str = "adam"
    labels: str = "auto"
    seed: int = 0
    device: str = "auto"


def run_prior_report(plan: PriorPlan, resume: bool = False) -> None:
    """Judge the prior, save the report in the plan's folder, and print its table.

    Args:
        plan: what to judge.
        resume: continue what a killed run left in the folder.

    Raises:
        InputError: anything that does not fit, before anything is written.
        CheckpointError: there is nothing to resume, or it belongs to another run.
    """
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH, highlight=False)
    check_place(plan.out, resume, checkpoints=CHECKPOINTS, result=RESULT)
    check_page()
    new = not plan.out.exists()
    checkpoints = plan.out / CHECKPOINTS
    try:
        report = _report(plan, console)
    except Exception:
        if new and not checkpoints.is_dir():
            shutil.rmtree(plan.out, ignore_errors=True)
        raise
    except KeyboardInterrupt:
        if checkpoints.is_dir():
            console.print("interrupted; the same command with --resume goes on")
        raise
    result = save(report, plan.out)
    shutil.rmtree(checkpoints, ignore_errors=True)
    _print(result, plan, console)


def _report(plan: PriorPlan, console: Console) -> PriorReport:
    device = find_device(plan.device)
    prior = load_prior(plan.prior)
    sets = _load_sets(plan, prior)
    if load_lpips() is None:
        console.print(LPIPS_HINT, markup=False)
    with progress_bars(console) as stage:
        return prior_report(
            prior,
            sets,
            images=plan.images,
            budget=plan.budget,
            strategy=plan.strategy,
            labels=plan.labels,
            seed=plan.seed,
            device=device,
            checkpoints=plan.out / CHECKPOINTS,
            progress=stage,
        )


def _load_sets(plan: PriorPlan, prior: Prior) -> dict[str, Dataset]:
    given = plan.data or ((prior.heldout,) if prior.heldout else ())
    if not given:
        raise InputError(f"prior {prior.name} brings no held-out images: give at least one --data")
    sets: dict[str, Dataset] = {}
    for text in given:
        name, spec = _named(text)
        if name in sets:
            raise InputError(f"two data sets are named {name!r}: give each its own, --data NAME={spec}")
        sets[name] = load_dataset(spec, image_shape=prior.image_shape, fit=plan.fit, split=plan.split)
        if plan.labels != "nearest":
            check_classes(sets[name], prior, "; or add --labels nearest")
    return sets


def _named(text: str) -> tuple[str, str]:
    """Return the name and the specification of "NAME=SPEC"; without a name, one from the specification."""
    match = NAMED.fullmatch(text)
    if match and not Path(text).expanduser().exists():
        return match[1], match[2]
    last = text.split(":")[1] if text.startswith("torchvision:") else Path(text).expanduser().name
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", last.removesuffix(".npz")).lstrip(".-_")
    return name or "data", text


def _print(result: Mapping[str, Any], plan: PriorPlan, console: Console) -> None:
    title = f"{plan.prior}, {plan.images} images a set, {plan.budget} evaluations of {plan.strategy}"
    lpips = ("LPIPS",) if _with_lpips(result) else ()
    rows = [_row(name, found) for name, found in result["sets"].items()]
    console.print(summary_table(title, (*HEADINGS, *lpips), rows))
    console.print(LEGEND)
    note = lpips_note(min(result["settings"]["image_shape"][1:]))
    if lpips and note is not None:
        console.print(note, markup=False)
    console.print(f"report: {plan.out / 'prior.html'}", soft_wrap=True)


def _with_lpips(result: Mapping[str, Any]) -> bool:
    return all("lpips" in found["figures"]["inversion"] for found in result["sets"].values())


def _row(name: str, found: Any) -> list[str]:
    figures, gain = found["figures"], found["gain"]
    interval = "undefined" if gain["low"] is None else f"{gain['low']:.1f}, {gain['high']:.1f}"
    row = [
        name,
        found["classes"] or "none needed",
        f"{figures['inversion']['psnr']['mean']:.1f}",
        gain["control"],
        f"{figures[gain['control']]['psnr']['mean']:.1f}",
        f"{gain['mean']:+.1f} [{interval}]",
        f"{gain['p_value']:.3f}",
    ]
    lpips = figures["inversion"].get("lpips")
    return row if lpips is None else [*row, f"{lpips['mean']:.3f}"]
