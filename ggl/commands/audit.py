"""Audits as the command line runs them: inputs checked first, progress shown, results in a folder."""

import shutil
import sys
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console

from ggl.attacks.stages import Stage
from ggl.audits.audit import audit
from ggl.audits.report import Report
from ggl.audits.truth import TruthCheck, check_truth
from ggl.base.devices import find_device
from ggl.base.random import global_stream, stream_seed
from ggl.captures.reconstruct import reconstruct
from ggl.captures.reconstruction import Reconstruction
from ggl.commands.audit_inputs import Inputs, load_inputs
from ggl.commands.audit_plan import AuditPlan
from ggl.commands.console import LOG_WIDTH, progress_bars, summary_table
from ggl.commands.folders import check_folder, check_place
from ggl.costs.utility_file import read_utility
from ggl.measures.lpips import LPIPS_HINT, load_lpips
from ggl.pages.templates import check_page

__all__ = [
    "DEMO",
    "run",
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
LEGEND = """\
leak score: 0 is what the class alone gives away, 1 all that the prior can say
identified: how often the private image ranks first among its decoys; 95 % intervals"""
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
HEADINGS = ("defense", "attacker", "strategy", "leak score", "identified", "PSNR", "control PSNR", "verdict")
WORST = "worst case over attackers and strategies"
WORST_HEADINGS = ("defense", "leak score", "verdict", "uncorrected", "of", "attacker", "strategy")


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
        with global_stream(stream_seed(plan.seed, "command")):
            report = _audit(plan, console)
    except Exception:
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


def _audit(plan: AuditPlan, console: Console) -> Report | Reconstruction:
    device = find_device(plan.device)
    inputs = load_inputs(plan, console.print)
    if load_lpips() is None:
        console.print(LPIPS_HINT, markup=False)
    for unsaid in inputs.local.cannot_tell if inputs.local else ():
        console.print(f"the clients' updates do not tell: {unsaid}", markup=False)
    truth = _check_truth(plan, inputs, device)
    if truth is not None:
        for line in truth.lines():
            console.print(line, markup=False)
    with progress_bars(console) as stage:
        if inputs.images is None or inputs.labels is None:
            return _reconstruct(plan, inputs, device, stage)
        report = audit(
            inputs.victim.to(device),
            inputs.images,
            inputs.labels,
            defenses=plan.defenses,
            strategies=plan.strategies,
            attackers=plan.attackers,
            ceiling_budget=plan.ceiling_budget,
            decoys=(inputs.pool.images, inputs.pool.labels),
            batch_size=plan.batch_size if inputs.shared is None else len(inputs.images),
            label_rule=plan.label_rule or "known",
            captured=None if inputs.shared is None else [inputs.shared],
            truth=truth,
            force=plan.force,
            statistics=plan.batch_statistics if inputs.statistics is None else [inputs.statistics],
            **_common(plan, inputs, stage),
        )
    return replace(report, settings={**report.settings, **_asked(plan, inputs)})


def _check_truth(plan: AuditPlan, inputs: Inputs, device: torch.device) -> TruthCheck | None:
    """Say whether the images behind a captured update make it; None without either."""
    if inputs.shared is None or inputs.images is None or inputs.labels is None:
        return None
    return check_truth(
        inputs.victim.to(device),
        inputs.images,
        inputs.labels,
        inputs.shared,
        local=inputs.local,
        defense=plan.defenses[0],
        loss=inputs.loss,
        rounding=inputs.rounding,
        rate_known=inputs.learning_rate is None,
        seed=plan.seed,
        round=plan.round,
        rounds=plan.rounds,
    )


def _reconstruct(plan: AuditPlan, inputs: Inputs, device: torch.device, stage: Stage) -> Reconstruction:
    """Attack a captured update whose images nobody knows."""
    found = reconstruct(
        inputs.victim.to(device),
        inputs.shared or {},
        pool=(inputs.pool.images, inputs.pool.labels),
        batch_size=plan.batch_size,
        labels=inputs.labels,
        label_rule=plan.label_rule,
        defense=plan.defenses[0],
        attacker=plan.attackers[0],
        strategy=plan.strategies[0],
        statistics=inputs.statistics,
        **_common(plan, inputs, stage),
    )
    return replace(found, settings={**found.settings, **_asked(plan, inputs)})


def _common(plan: AuditPlan, inputs: Inputs, stage: Stage) -> dict[str, Any]:
    """Return the options that audits and reconstructions share."""
    return {
        "prior": inputs.prior,
        "distance": plan.distance,
        "latents": plan.latents,
        "local": inputs.local,
        "loss": inputs.loss,
        "budget": plan.budget,
        "seed": plan.seed,
        "backend": plan.backend,
        "precision": plan.precision,
        "round": plan.round,
        "rounds": plan.rounds,
        "checkpoints": plan.out / CHECKPOINTS,
        "progress": stage,
    }


def _asked(plan: AuditPlan, inputs: Inputs) -> dict[str, object]:
    """Return what a result's settings say beside those of the Python call."""
    rate = inputs.learning_rate
    return {
        **plan.asked(),
        "num_classes": inputs.num_classes,
        "weights_read": list(inputs.notes),
        "estimated_learning_rate": None if rate is None else rate.to_dict(),
    }


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
            (
                *(cell["defense"], _interval(cell["corrected"]), cell["corrected"]["verdict"]),
                f"{_interval(cell['leak_score'])} {cell['verdict']}",
                *(str(cell["corrected"]["looks"]), cell["attacker"], cell["strategy"]),
            )
            for cell in result["worst_case"]
        ]
        console.print(summary_table(WORST, WORST_HEADINGS, rows))
        console.print(CORRECTED)
    console.print(f"ceiling of the prior: {result['ceiling']['psnr']['mean']:.1f} dB PSNR")
    console.print(LEGEND)
    truth = result["truth"]
    if truth is not None and truth["verdict"] == "doubtful":
        for line in [*truth["said"], WITHHELD if truth["scores_withheld"] else FORCED]:
            console.print(line, markup=False)


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
        cell["corrected"]["verdict"],
    ]


def _interval(values: Any) -> str:
    if None in (values["mean"], values["low"], values["high"]):
        return "undefined"
    return f"{values['mean']:.2f} [{values['low']:.2f}, {values['high']:.2f}]"
