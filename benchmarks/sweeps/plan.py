"""What a spec asks for before anything runs: its cells, their evaluations, and an estimate of the time."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ggl.base.durations import duration_text, wall_seconds
from ggl.base.processes import one_thread
from ggl.benchmarks.sweeps.calibration import Calibration, place_of
from ggl.benchmarks.sweeps.cells import AXES, Pack, SweepCell, packs_of
from ggl.benchmarks.sweeps.components import Components
from ggl.benchmarks.sweeps.execute import SEARCHES, ceilings_of
from ggl.benchmarks.sweeps.spec import Spec
from ggl.benchmarks.sweeps.spec_axes import UNNAMED

__all__ = ["Estimate", "Piece", "SweepPlan", "plan", "plan_lines"]

CEILING, FIXED = "ceilings", "sharing and scoring"
"""Pieces of the time that belong to no strategy."""


@dataclass(frozen=True)
class Piece:
    """A part of a sweep's time, in seconds of one thread."""

    what: str
    evaluations: int
    seconds: float
    at_least: bool = False


@dataclass(frozen=True)
class Estimate:
    """What a sweep will take.

    Attributes:
        seconds: of wall time, packs handed to `workers` processes of one thread in their order; starting
            the processes is not in it.
        pieces: of one thread's time, by strategy; what is searched first, then the rest.
    """

    seconds: float
    workers: int
    pieces: tuple[Piece, ...]

    @property
    def at_least(self) -> bool:
        """Whether a strategy's time grows while it runs, so that more is to be expected."""
        return any(piece.at_least for piece in self.pieces)


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep consists of.

    Attributes:
        cells: those to be run, without the ones that a component refuses.
        skipped: how many cells an exclusion leaves out, by its reason.
        refused: how many cells a component refuses, by its reason.
        searched: objective evaluations of all searches at most, controls included.
        inverted: objective evaluations of the ceilings.
        passes: through victims, of the searches: more than evaluations where an attacker averages draws.
        estimate: of the time, or None where none was asked for.
    """

    spec: Spec
    cells: tuple[SweepCell, ...]
    packs: tuple[Pack, ...]
    skipped: Mapping[str, int]
    refused: Mapping[str, int]
    searched: int
    inverted: int
    passes: int
    estimate: Estimate | None


def plan(
    spec: Spec,
    *,
    workers: int = 2,
    device: torch.device | None = None,
    calibrate: bool = True,
    progress: Callable[[str], None] | None = None,
) -> SweepPlan:
    """Return what a spec asks for.

    Args:
        spec: is checked, so that its components are loaded.
        workers: processes of one thread that the time is estimated for.
        device: where evaluations are timed, the CPU by default.
        calibrate: whether to time anything; seconds to a minute or two.
        progress: called with what is timed next.

    Raises:
        InputError: as `Spec.check`.
        GradientError: a private image's gradient is zero or not finite.
    """
    components = Components()
    refused = dict(spec.refused(components))
    cells = tuple(cell for cell in spec.cells() if cell not in refused)
    packs = tuple(packs_of(cells, spec.pack))
    calibration = Calibration(components, spec.pack, device or torch.device("cpu"))
    with one_thread():
        estimate = _estimate(packs, calibration, workers, progress) if calibrate else None
    return SweepPlan(
        spec=spec,
        cells=cells,
        packs=packs,
        skipped=Counter(reason for _, reason in spec.skipped()),
        refused=Counter(refused.values()),
        searched=sum(_searched(pack) for pack in packs),
        inverted=len(ceilings_of(packs)) * spec.images * spec.ceiling_budget,
        passes=sum(_searched(pack) * calibration.passes(pack[0]) for pack in packs),
        estimate=estimate,
    )


def _searched(pack: Pack) -> int:
    return SEARCHES * len(pack) * pack[0].budget


def _estimate(
    packs: Sequence[Pack],
    calibration: Calibration,
    workers: int,
    progress: Callable[[str], None] | None,
) -> Estimate:
    references = {place_of(pack[0]): pack[0] for pack in reversed(packs)}
    times, pieces = [], []
    for cell in ceilings_of(packs).values():
        _tell(progress, f"{cell.prior}, ceilings of {cell.data}")
        evaluations = cell.images * cell.ceiling_budget
        seconds = evaluations * calibration.ceiling(cell)
        pieces.append(Piece(CEILING, evaluations, seconds))
        times.append(seconds)
    for pack in packs:
        cell, reference = pack[0], references[place_of(pack[0])]
        _tell(progress, f"{cell.defense}, {cell.attacker}, {cell.strategy}")
        search = _searched(pack) * calibration.evaluation(cell, reference)
        once, each = calibration.fixed(cell, reference)
        pieces.append(Piece(cell.strategy, _searched(pack), search, calibration.grows(cell)))
        pieces.append(Piece(FIXED, 0, once + len(pack) * each))
        times.append(search + once + len(pack) * each)
    return Estimate(wall_seconds(times, workers), workers, _joined(pieces))


def _tell(progress: Callable[[str], None] | None, what: str) -> None:
    if progress is not None:
        progress(what)


def _joined(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Return one piece for each name, searches first."""
    names = dict.fromkeys(piece.what for piece in pieces)
    ordered = sorted(names, key=lambda name: (name == FIXED, name == CEILING))
    groups = [[piece for piece in pieces if piece.what == name] for name in ordered]
    return tuple(
        Piece(
            group[0].what,
            sum(piece.evaluations for piece in group),
            sum(piece.seconds for piece in group),
            any(piece.at_least for piece in group),
        )
        for group in groups
    )


def plan_lines(found: SweepPlan) -> list[str]:
    """Return a plan as lines of text."""
    spec = found.spec
    left_out = sum(found.skipped.values()) + sum(found.refused.values())
    return [
        f"{spec.name} ({spec.hash}): {len(found.cells):,} cells in {len(found.packs):,} packs, "
        f"{left_out:,} left out",
        *_axis_lines(found.cells),
        *_reason_lines("skipped by the spec", found.skipped),
        *_reason_lines("refused by a component", found.refused),
        f"evaluations: {found.searched:,} of searches at most, controls included, and {found.inverted:,} of "
        f"ceilings; the searches take {found.passes:,} passes through victims",
        *(_estimate_lines(found.estimate) if found.estimate else []),
    ]


def _axis_lines(cells: Sequence[SweepCell]) -> list[str]:
    counts = {axis: Counter(getattr(cell, axis) for cell in cells) for axis in AXES}
    return [
        f"  {axis}: " + " · ".join(f"{_value(axis, value)} ({n:,})" for value, n in count.items())
        for axis, count in counts.items()
        if any(value is not None for value in count)
    ]


def _value(axis: str, value: object) -> str:
    return UNNAMED[axis] if value is None else str(value)


def _reason_lines(title: str, reasons: Mapping[str, int]) -> list[str]:
    counted = sorted(reasons.items(), key=lambda item: -item[1])
    return [title + ":", *(f"  {n:,} cells: {reason}" for reason, n in counted)] if reasons else []


def _estimate_lines(estimate: Estimate) -> list[str]:
    work = sum(piece.seconds for piece in estimate.pieces)
    bound = "at least " if estimate.at_least else ""
    return [
        f"time: {bound}{duration_text(estimate.seconds)} with {estimate.workers} workers of one thread, from "
        f"{duration_text(work)} of work, as calibrated on this machine now",
        *(
            f"  {piece.what}: {'at least ' if piece.at_least else ''}{duration_text(piece.seconds)}"
            + (f", {1000 * piece.seconds / piece.evaluations:.2f} s per 1,000" if piece.evaluations else "")
            for piece in estimate.pieces
        ),
    ]
