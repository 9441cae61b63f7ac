"""One pack of cells, or the ceilings they are measured by: what a worker computes."""

import functools
import hashlib
import json
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import ggl
from ggl.attacks.course import SearchResult
from ggl.attacks.inversion import invert
from ggl.audits.audit import audit
from ggl.audits.clients import KINDS
from ggl.audits.findings import AuditCell
from ggl.audits.report import Report
from ggl.base.devices import find_device
from ggl.base.errors import InputError
from ggl.base.memory import PeakMemory
from ggl.base.versions import versions
from ggl.benchmarks.sweeps.cells import Pack, SweepCell
from ggl.benchmarks.sweeps.components import Components
from ggl.benchmarks.sweeps.records import METRICS, CurvePoint, Record, figure_name
from ggl.datasets.loading import Dataset
from ggl.datasets.picking import pick_private
from ggl.generators import Prior
from ggl.measures.leakage import Scores
from ggl.measures.statistics import finite_or_none

__all__ = [
    "SEARCHES",
    "Ceiling",
    "PackOutcome",
    "ceiling_of",
    "ceilings_of",
    "find_commit",
    "invert_images",
    "run_pack",
]

SEARCHES = len(KINDS)
"""Of a cell: the attack and its sibling and noise controls, at one budget."""

Picture: TypeAlias = NDArray[np.float32]
"""An image (c, h, w) in [0, 1]: what leaves a worker holds no tensors."""


@dataclass(frozen=True)
class Ceiling:
    """What an inversion of the private images themselves follows from."""

    prior: str
    data: str
    split: str
    fit: str | None
    images: int
    image_seed: int
    budget: int

    @property
    def key(self) -> str:
        """Return 16 hexadecimal digits of a hash."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class PackOutcome:
    """The records of a pack, and its pictures by a cell's id and a name."""

    records: tuple[Record, ...]
    pictures: Mapping[tuple[str, str], Picture]


@dataclass(frozen=True)
class _Setting:
    """What many packs share, loaded once a worker."""

    prior: Prior
    data: Dataset
    private: Tensor
    victim: nn.Module
    device: torch.device


def ceiling_of(cell: SweepCell) -> Ceiling:
    """Return the inversion that a cell is measured by."""
    return Ceiling(
        cell.prior, cell.data, cell.split, cell.fit, cell.images, cell.image_seed, cell.ceiling_budget
    )


def ceilings_of(packs: Iterable[Pack]) -> dict[Ceiling, SweepCell]:
    """Return the inversions that packs are measured by, each with a cell that needs it."""
    return {ceiling_of(pack[0]): pack[0] for pack in packs}


def invert_images(cell: SweepCell, device: str) -> NDArray[np.float32]:
    """Return the prior's best images (n, c, h, w) of a cell's private ones."""
    setting = _load(cell, device)
    results = invert(
        setting.data.images[setting.private],
        setting.data.labels[setting.private],
        prior=setting.prior,
        budget=cell.ceiling_budget,
        seed=cell.image_seed,
        device=setting.device,
    )
    return torch.cat([result.images for result in results]).numpy()


def run_pack(pack: Pack, ceiling: NDArray[np.float32], device: str) -> PackOutcome:
    """Attack a pack's images side by side, with their controls, and measure what came out.

    Args:
        pack: cells that differ in their image alone.
        ceiling: the prior's best image of each (n, c, h, w).
        device: "cpu", "cuda", "auto".
    """
    cell = pack[0]
    setting = _load(cell, device)
    data = setting.data
    memory = PeakMemory(setting.device)
    started = time.monotonic()
    report = audit(
        setting.victim,
        data.images[setting.private],
        data.labels[setting.private],
        prior=setting.prior,
        defenses=[cell.defense],
        strategies=[cell.strategy],
        attackers=[cell.attacker],
        budget=cell.budget,
        ceiling_budget=cell.ceiling_budget,
        ceiling=torch.tensor(ceiling),
        only=[member.image for member in pack],
        seed=cell.seed,
        decoys=(data.images, data.labels),
        distance=cell.distance,
        latents=cell.latents,
        backend=cell.backend,
        precision=cell.precision,
        round=cell.round,
        rounds=cell.rounds,
    )
    timed = {"seconds": (time.monotonic() - started) / len(pack), "peak_memory": memory.read()}
    records = tuple(_record(member, i, report, setting, timed) for i, member in enumerate(pack))
    return PackOutcome(records, _pictures(pack, report))


def _load(cell: SweepCell, device: str) -> _Setting:
    blank = replace(cell, defense="", attacker="", strategy="", distance="", latents=None)
    return _load_place(replace(blank, budget=0, round=0, seed=0, image=0), device)


@functools.lru_cache(maxsize=4)
def _load_place(place: SweepCell, device: str) -> _Setting:
    components, where = Components(), find_device(device)
    prior, data = components.prior(place).to(where), components.data(place)
    private = pick_private(data.labels, place.images, place.image_seed)
    return _Setting(prior, data, private, components.victim(place).to(where), where)


def _record(cell: SweepCell, i: int, report: Report, setting: _Setting, timed: Mapping[str, float]) -> Record:
    """Return what became of the i-th cell of a pack."""
    found = _only(report)
    result = found.results["private"][i]
    sources: dict[str, Scores] = {"attack": found.attack, "ceiling": report.ceiling}
    sources |= {name.replace(" ", "_"): scores for name, scores in found.controls.items()}
    label = int(report.labels[i])
    return Record(
        cell=cell,
        status="ok",
        figures={
            **{
                figure_name(source, metric): _figure(scores, metric, i)
                for source, scores in sources.items()
                for metric in METRICS
            },
            "label": label,
            "decoys": int(found.attack.decoys[i]),
            "label_recovered": int(found.label_accuracy[i] == 1),
            "loss": finite_or_none(result.loss),
            **{f"match_of_{kind}": finite_or_none(values[i]) for kind, values in found.matches.items()},
            "evaluations": result.evaluations,
            "backward_passes": result.backward_passes,
            "passes_per_evaluation": found.passes,
            "packed": len(report.images),
            **timed,
        },
        curve=_curve(result, report.images[i], label, setting),
        private_image=_digest(report.images[i]),
        sibling_image=_digest(report.siblings[i]),
        device=_name(setting.device),
        commit=find_commit(),
        versions=json.dumps(versions(), sort_keys=True),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _only(report: Report) -> AuditCell:
    """Return the one cell of a pack's report."""
    if len(report.cells) != 1:
        raise InputError(
            f"expected an attacker that searches once, found {len(report.cells)}; name one attacker a cell"
        )
    return report.cells[0]


def _figure(scores: Scores, metric: str, i: int) -> float | int | None:
    if metric == "rank":
        return int(scores.ranks[i])
    return finite_or_none(scores.values[metric][i]) if metric in scores.values else None


@torch.no_grad()
def _curve(result: SearchResult, image: Tensor, label: int, setting: _Setting) -> tuple[CurvePoint, ...]:
    """Return the squared error of what a search had found at its milestones."""
    points = [m for m in result.milestones if np.isfinite(m.loss)]
    if not points:
        return ()
    latents = torch.cat([m.latents for m in points]).to(setting.device)
    labels = torch.full((len(latents),), label, device=setting.device)
    errors = (setting.prior.decode(latents, labels).cpu() - image).square().flatten(1).mean(1)
    return tuple(
        CurvePoint(m.evaluations, m.seconds, m.loss, error)
        for m, error in zip(points, errors.tolist(), strict=True)
    )


def _pictures(pack: Pack, report: Report) -> dict[tuple[str, str], Picture]:
    found = _only(report)
    rows: dict[str, Tensor] = {
        "private": report.images,
        "ceiling": report.ceiling_images,
        **{"attack" if kind == "private" else kind: images for kind, images in found.images.items()},
    }
    return {
        (cell.id, name): images[i].float().numpy()
        for name, images in rows.items()
        for i, cell in enumerate(pack)
    }


def _digest(image: Tensor) -> str:
    return hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()[:16]


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} thread a worker)"


@functools.cache
def find_commit() -> str:
    """Return the code's commit, with a + where files were changed since; nothing where it has none."""
    folder = Path(ggl.__file__).resolve().parents[1]
    if not (folder / ".git").exists():
        return ""
    # A commit that the user makes meanwhile must not find its lock taken.
    git = ("git", "--no-optional-locks", "-C", str(folder))
    commands: Sequence[Sequence[str]] = (
        ("rev-parse", "--short=12", "HEAD"),
        ("status", "--porcelain", "--untracked-files=no"),
    )
    try:
        commit, changes = (
            subprocess.run([*git, *command], capture_output=True, text=True, check=True).stdout  # noqa: S603
            for command in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit.strip() + ("+" if changes.strip() else "")
