"""Plausible records without an audit behind them: deterministic, and clean of every doubt flag.

Tests in this folder import it by `from made_records import made_records`.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ggl.benchmarks.sweeps.cells import SweepCell
from ggl.benchmarks.sweeps.records import METRICS, CurvePoint, Record, figure_name

CELL = SweepCell(
    prior="bundled",
    victim="lenet",
    victim_weights=None,
    data="heldout",
    defense="none",
    attacker="adaptive",
    strategy="cma-es",
    distance="cosine",
    latents=None,
    budget=2000,
    round=0,
    seed=0,
    image=0,
    images=8,
    image_seed=0,
    victim_seed=0,
    ceiling_budget=2000,
    split="test",
    fit=None,
    rounds=10_000,
    precision="float32",
    backend="auto",
)
"""What a made cell is where nothing else is asked for."""

CLASS_MEAN = 0.05
"""Mean squared error of the strongest control, on average."""

DECOYS = 99


def usual_attack(cell: SweepCell) -> float:
    """Return a mean squared error: a defense costs the attacker something, and random search finds less."""
    error = {"none": 0.018, "prune:0.9": 0.022}.get(cell.defense, 0.026)
    error *= 1.4 if cell.strategy == "random" else 1.0
    return error * (1.2 if cell.attacker == "naive" else 1.0)


def made_records(
    defenses: Sequence[str] = ("none", "noise:0.2"),
    strategies: Sequence[str] = ("cma-es", "random"),
    images: int = 8,
    seeds: int = 1,
    *,
    attackers: Sequence[str] = ("adaptive",),
    attack: Callable[[SweepCell], float] = usual_attack,
    ceiling: float = 0.01,
    lpips: bool = False,
    base: SweepCell = CELL,
) -> list[Record]:
    """Return an ok record for every cell, image the fastest.

    Args:
        attack: the attack's mean squared error of a cell, about which images scatter by a tenth.
        ceiling: the ceiling's, likewise.
        lpips: whether its weights were at hand; without them these figures are None.
        base: what all cells share.
    """
    cells = [
        replace(base, defense=d, attacker=a, strategy=s, seed=seed, image=i, images=images)
        for d in defenses
        for a in attackers
        for s in strategies
        for seed in range(seeds)
        for i in range(images)
    ]
    return [made_record(cell, attack(cell), ceiling, lpips=lpips) for cell in cells]


def made_record(cell: SweepCell, attack: float, ceiling: float = 0.01, *, lpips: bool = False) -> Record:
    """Return an ok record of a cell, its errors scattered about those given."""
    image = 1 + 0.1 * _normal("image", cell.image)
    own = 1 + 0.02 * _normal(cell.id)
    errors = {
        "attack": attack * image * own,
        "sibling": 0.064 * image * (1 + 0.05 * _normal(cell.id, "sibling")),
        "noise": 0.072 * image * (1 + 0.05 * _normal(cell.id, "noise")),
        "prior": 0.08 * image,
        "class_mean": CLASS_MEAN * image,
        "ceiling": ceiling * image,
    }
    figures: dict[str, float | int | None] = {
        figure_name(source, metric): value
        for source, mse in errors.items()
        for metric, value in _metrics(mse, lpips).items()
    }
    own_match = 1e-7 if cell.defense == "none" else 0.25
    match = own_match + errors["attack"]
    seconds = cell.budget * 1e-3
    figures |= {
        "label": cell.image % 10,
        "decoys": DECOYS,
        "label_recovered": 1,
        "loss": match - 1e-4,
        "match_of_attack": match,
        "match_of_private": own_match,
        "evaluations": cell.budget,
        "backward_passes": 0,
        "passes_per_evaluation": 1,
        "packed": min(cell.images, 8),
        "seconds": 3 * seconds,
        "peak_memory": 300_000_000,
    }
    return Record(
        cell,
        "ok",
        figures=figures,
        curve=_curve(cell.budget, seconds, match - 1e-4, errors["attack"]),
        private_image=_hash(cell.data, cell.image_seed, "private", cell.image),
        sibling_image=_hash(cell.data, cell.seed, "sibling", cell.image),
        spec=_hash("spec"),
        device="cpu",
        commit="0" * 40,
        versions='{"ggl": "0.1.0"}',
        finished="2026-11-21T12:00:00Z",
    )


def failed(record: Record, reason: str = "GradientError: the gradient is zero") -> Record:
    """Return the record as it is where its cell failed."""
    return replace(record, status="failed", reason=reason, figures={}, curve=())


def skipped(record: Record, reason: str = "excluded: too slow here") -> Record:
    """Return the record as it is where its cell was skipped."""
    return replace(record, status="skipped", reason=reason, figures={}, curve=())


def with_figures(record: Record, figures: Mapping[str, float | int | None]) -> Record:
    """Return the record with other figures."""
    return replace(record, figures={**record.figures, **figures})


def _metrics(mse: float, lpips: bool) -> dict[str, float | int | None]:
    decibels = -10 * math.log10(mse)
    values = (
        *(mse, decibels, decibels + 6, 1 - 5 * mse, 5 * mse),
        *(4 * mse if lpips else None, 2 * mse, 1 if mse < 0.03 else 1 + int(500 * mse)),
    )
    return dict(zip(METRICS, values, strict=True))


def _curve(budget: int, seconds: float, loss: float, mse: float) -> tuple[CurvePoint, ...]:
    """A search that has found nearly everything at a quarter of its budget."""
    points = []
    for k in range(7, -1, -1):
        left = 0.5 * 0.2 ** (7 - k)
        evaluations = budget >> k
        points.append(
            CurvePoint(evaluations, seconds * evaluations / budget, loss * (1 + left), mse * (1 + left))
        )
    return tuple(points)


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _normal(*parts: object) -> float:
    """Return a standard normal number, within ±2, that the parts define."""
    number = np.random.default_rng(int(_hash(*parts), 16)).standard_normal()
    return float(np.clip(number, -2, 2))
