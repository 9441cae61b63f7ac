"""Audits as the command line runs them: inputs checked first, progress shown, results in a folder."""

import shutil
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from rich.console import Console

from ggl.audits.audit import audit
from ggl.audits.dry_run import foresee
from ggl.audits.report import Report
from ggl.audits.request import AuditRequest
from ggl.audits.truth import TruthCheck, check_truth
from ggl.base.devices import find_device
from ggl.base.errors import InputError
from ggl.base.processes import one_thread, processors
from ggl.base.random import global_stream, stream_seed
from ggl.captures.reconstruct import reconstruct
from ggl.captures.reconstruction import Reconstruction
from ggl.commands.audit_inputs import Inputs, load_inputs
from ggl.commands.audit_plan import AuditPlan
from ggl.commands.audit_summary import print_summary
from ggl.commands.console import LOG_WIDTH, progress_bars
from ggl.commands.dry_run import print_prospect, print_uncompared
from ggl.commands.evidence import EvidenceFile, evidence_of
from ggl.commands.evidence_plan import input_files
from ggl.commands.folders import check_folder, check_place
from ggl.commands.gate import Gate
from ggl.costs.utility_file import read_utility
from ggl.measures.lpips import LPIPS_HINT, load_lpips
from ggl.pages.templates import check_page

__all__ = [
    "DEMO",
    "audited",
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


def run(
    plan: AuditPlan,
    resume: bool,
    *,
    overwrite: bool = False,
    gate: Gate | None = None,
    evidence: EvidenceFile | None = None,
    workers: int | None = None,
    dry_run: bool = False,
) -> bool:
    """Run the audit, save it in the plan's folder, print its table, and say whether the gate is passed.

    Args:
        plan: what to audit.
        resume: continue what a killed run left in the folder.
        overwrite: replace an earlier run's results instead of refusing.
        gate: what no defense may show.
        evidence: where the evidence goes.
        workers: processes that search; by default one a processor, or one on a GPU.
        dry_run: check everything that can be, say what the audit would take, and write nothing.
    """
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH, highlight=False)
    if gate is not None and plan.captured and plan.truth is None:
        raise InputError("--fail-on judges leak scores, and without --truth nothing is scored: give --truth")
    if evidence is not None:
        evidence.check()
    if overwrite and not resume:
        check_folder(plan.out)
        shutil.rmtree(plan.out / CHECKPOINTS, ignore_errors=True)
    else:
        check_place(plan.out, resume, checkpoints=CHECKPOINTS, result=RESULT)
    check_page()
    if dry_run:
        _foretell(plan, console, workers)
        return True
    new = not plan.out.exists()
    try:
        files = [] if evidence is None else input_files(plan)
        found, inputs = audited(plan, console, workers)
    except Exception:
        if new and not (plan.out / CHECKPOINTS).is_dir():
            shutil.rmtree(plan.out, ignore_errors=True)
        raise
    except KeyboardInterrupt:
        if (plan.out / CHECKPOINTS).is_dir():
            console.print("interrupted; the same command with --resume goes on")
        raise
    result = found.save(plan.out)
    print_summary(result, plan, console)
    if evidence is not None:
        evidence.write(evidence_of(plan, files, inputs, found, result, evidence.pictures), console)
    shutil.rmtree(plan.out / CHECKPOINTS, ignore_errors=True)
    return gate is None or gate.is_passed(result, console)


@one_thread()
def audited(
    plan: AuditPlan, console: Console, workers: int | None = None
) -> tuple[Report | Reconstruction, Inputs]:
    """Run the audit, its progress shown; return what it found and what was loaded for it."""
    utility = None if plan.utility is None else read_utility(plan.utility, plan.victim)
    with global_stream(stream_seed(plan.seed, "command")):
        device = find_device(plan.device)
        inputs = load_inputs(plan, console.print)
        found = _audit(plan, inputs, device, console, _crew(workers, device))
    return found if isinstance(found, Reconstruction) else replace(found, utility=utility), inputs


@one_thread()
def _foretell(plan: AuditPlan, console: Console, workers: int | None) -> None:
    """Print what the audit would take."""
    if plan.utility is not None:
        read_utility(plan.utility, plan.victim)
    with global_stream(stream_seed(plan.seed, "command")):
        device = find_device(plan.device)
        inputs = load_inputs(plan, console.print)
        if inputs.images is None or inputs.labels is None:
            print_uncompared(plan, console)
            return
        _say_truth(plan, inputs, device, console)
        request = AuditRequest(**_what(plan, inputs, device))
        print_prospect(foresee(request, _crew(workers, device)), plan, console)


def _crew(workers: int | None, device: torch.device) -> int:
    """Return how many processes search, where that is not said."""
    return workers or (processors() if device.type == "cpu" else 1)


def _audit(
    plan: AuditPlan, inputs: Inputs, device: torch.device, console: Console, workers: int
) -> Report | Reconstruction:
    if load_lpips() is None:
        console.print(LPIPS_HINT, markup=False)
    for unsaid in inputs.local.cannot_tell if inputs.local else ():
        console.print(f"the clients' updates do not tell: {unsaid}", markup=False)
    truth = _say_truth(plan, inputs, device, console)
    with progress_bars(console) as stage:
        how: dict[str, Any] = {"checkpoints": plan.out / CHECKPOINTS, "workers": workers, "progress": stage}
        if inputs.images is None or inputs.labels is None:
            return _reconstruct(plan, inputs, device, how)
        report = audit(
            **_what(plan, inputs, device),
            truth=truth,
            force=plan.force,
            say=partial(console.print, markup=False),
            **how,
        )
    report = report if inputs.groups is None else report.with_groups(inputs.groups)
    return replace(report, settings={**report.settings, **_asked(plan, inputs)})


def _what(plan: AuditPlan, inputs: Inputs, device: torch.device) -> dict[str, Any]:
    """Return what is audited, as `AuditRequest` and `audit` name it."""
    images = inputs.images
    return {
        "victim": inputs.victim.to(device),
        "images": images,
        "labels": inputs.labels,
        "defenses": plan.defenses,
        "ceiling_budget": plan.ceiling_budget,
        "decoys": (inputs.pool.images, inputs.pool.labels),
        "batch_size": plan.batch_size if inputs.shared is None or images is None else len(images),
        "captured": None if inputs.shared is None else [inputs.shared],
        "statistics": plan.batch_statistics if inputs.statistics is None else [inputs.statistics],
        **_attackers(plan),
        **_common(plan, inputs),
    }


def _attackers(plan: AuditPlan) -> dict[str, Any]:
    """Return who attacks: those that were asked for, or a ladder of them."""
    if plan.ladder:
        return {"ladder": True}
    return {
        "strategies": plan.strategies,
        "attackers": plan.attackers,
        "label_rule": plan.label_rule or "known",
    }


def _say_truth(plan: AuditPlan, inputs: Inputs, device: torch.device, console: Console) -> TruthCheck | None:
    """Say whether the images behind a captured update make it, and return that; None without either."""
    truth = _check_truth(plan, inputs, device)
    for line in () if truth is None else truth.lines():
        console.print(line, markup=False)
    return truth


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


def _reconstruct(
    plan: AuditPlan, inputs: Inputs, device: torch.device, how: dict[str, Any]
) -> Reconstruction:
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
        **_common(plan, inputs),
        **how,
    )
    return replace(found, settings={**found.settings, **_asked(plan, inputs)})


def _common(plan: AuditPlan, inputs: Inputs) -> dict[str, Any]:
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
