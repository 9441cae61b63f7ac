"""Prior reports as the command line runs them: inputs checked first, progress shown, results in a folder."""

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
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
from ggl.prior_reports import comparison_page, page
from ggl.prior_reports.comparison import PriorComparison, check_channels
from ggl.prior_reports.findings import PriorReport
from ggl.prior_reports.report import prior_report

__all__ = ["PriorPlan", "run_prior_report"]

CHECKPOINTS = ".ggl-prior-checkpoints"
NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.+)")
HEADINGS = ("data set", "classes", "PSNR", "strongest control", "its PSNR", "gain, dB", "p")
COMPARED = ("data set", "prior", "pixels", "latents", "PSNR", "behind, dB", "gain, dB", "images/s")
LEGEND = """\
PSNR: mean of the images' inversions; more evaluations, or another strategy, may come nearer
gain: above the strongest control, image by image; 95 % interval, paired test"""

COMPARED_LEGEND = """\
PSNR: mean of the images' inversions, compared at {height} x {width} px; behind: the best, image by image
gain: above the prior's strongest control, at its own size; images/s: drawn, without gradients"""


@dataclass(frozen=True)
class PriorPlan:
    """Everything that `ggl prior-report` was asked for.

    Attributes:
        priors: one to judge, or several to compare on the same images.
        data: sources of images, each as `load_dataset` takes it, with NAME= before it or not; none for the
            first prior's own held-out set.
    """

    priors: tuple[str, ...]
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
    """Judge the priors, save the report in the plan's folder, and print its table.

    Args:
        plan: what to judge.
        resume: continue what a killed run left in the folder.

    Raises:
        InputError: anything that does not fit, before anything is written.
        CheckpointError: there is nothing to resume, or it belongs to another run.
    """
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH, highlight=False)
    several = len(plan.priors) > 1
    check_place(
        plan.out, resume, checkpoints=CHECKPOINTS, result=(comparison_page if several else page).RESULT
    )
    check_page()
    new = not plan.out.exists()
    checkpoints = plan.out / CHECKPOINTS
    try:
        reports = _reports(plan, console)
    except Exception:
        if new and not checkpoints.is_dir():
            shutil.rmtree(plan.out, ignore_errors=True)
        raise
    except KeyboardInterrupt:
        if checkpoints.is_dir():
            console.print("interrupted; the same command with --resume goes on")
        raise
    if several:
        _print_comparison(comparison_page.save_comparison(PriorComparison(reports), plan.out), plan, console)
    else:
        _print(page.save(reports[next(iter(reports))], plan.out), plan, console)
    shutil.rmtree(checkpoints, ignore_errors=True)


def _reports(plan: PriorPlan, console: Console) -> dict[str, PriorReport]:
    """Return the report on every prior, by the prior's name; all inputs are looked at first."""
    device = find_device(plan.device)
    priors = {name: load_prior(name) for name in plan.priors}
    if len(priors) < len(plan.priors):
        raise InputError("expected every prior once, found one twice")
    check_channels({name: prior.image_shape[0] for name, prior in priors.items()})
    first = next(iter(priors.values()))
    sources = plan.data or ((first.heldout,) if first.heldout else ())
    sets = {name: _load_sets(plan, sources, prior) for name, prior in priors.items()}
    if load_lpips() is None:
        console.print(LPIPS_HINT, markup=False)
    reports = {}
    for k, (name, prior) in enumerate(priors.items()):
        if len(priors) > 1:
            console.print(f"{k + 1} of {len(priors)}: {name}", markup=False)
        with progress_bars(console) as stage:
            reports[name] = prior_report(
                prior,
                sets[name],
                images=plan.images,
                budget=plan.budget,
                strategy=plan.strategy,
                labels=plan.labels,
                seed=plan.seed,
                device=device,
                checkpoints=plan.out / CHECKPOINTS / comparison_page.folder_of(k),
                progress=stage,
            )
    return reports


def _load_sets(plan: PriorPlan, sources: Sequence[str], prior: Prior) -> dict[str, Dataset]:
    if not sources:
        raise InputError(f"prior {prior.name} brings no held-out images: give at least one --data")
    sets: dict[str, Dataset] = {}
    for text in sources:
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
    title = f"{plan.priors[0]}, {plan.images} images a set, {plan.budget} evaluations of {plan.strategy}"
    lpips = ("LPIPS",) if _with_lpips(result) else ()
    rows = [_row(name, found) for name, found in result["sets"].items()]
    console.print(summary_table(title, (*HEADINGS, *lpips), rows))
    console.print(LEGEND)
    note = lpips_note(min(result["settings"]["image_shape"][1:]))
    if lpips and note is not None:
        console.print(note, markup=False)
    console.print(f"report: {plan.out / 'prior.html'}", soft_wrap=True)


def _print_comparison(result: Mapping[str, Any], plan: PriorPlan, console: Console) -> None:
    title = f"{plan.images} images a set, {plan.budget} evaluations of {plan.strategy}"
    rows = [
        [
            data if name == next(iter(found["priors"])) else "",
            name,
            str(result["priors"][name]["image_shape"][1]),
            str(result["priors"][name]["latent_dim"]),
            _interval(of["psnr"]),
            "the best" if of["behind"] is None else _interval(of["behind"]),
            f"{of['gain']['mean']:+.1f}",
            f"{result['timing'][name]['images_per_second']['forward']:.3g}",
        ]
        for data, found in result["sets"].items()
        for name, of in found["priors"].items()
    ]
    console.print(summary_table(title, COMPARED, rows))
    height, width = result["settings"]["compared_at"]
    console.print(COMPARED_LEGEND.format(height=height, width=width))
    console.print(f"report: {plan.out / 'priors.html'}", soft_wrap=True)


def _interval(found: Mapping[str, Any], sign: str = "") -> str:
    bounds = "undefined" if found["low"] is None else f"{found['low']:.1f}, {found['high']:.1f}"
    return f"{found['mean']:{sign}.1f} [{bounds}]"


def _with_lpips(result: Mapping[str, Any]) -> bool:
    return all("lpips" in found["figures"]["inversion"] for found in result["sets"].values())


def _row(name: str, found: Any) -> list[str]:
    figures, gain = found["figures"], found["gain"]
    row = [
        name,
        found["classes"] or "none needed",
        f"{figures['inversion']['psnr']['mean']:.1f}",
        gain["control"],
        f"{figures[gain['control']]['psnr']['mean']:.1f}",
        _interval(gain, "+"),
        f"{gain['p_value']:.3f}",
    ]
    lpips = figures["inversion"].get("lpips")
    return row if lpips is None else [*row, f"{lpips['mean']:.3f}"]
