"""Hours of `ggl reproduce ggl --scale paper`: its evaluations by the rates that its strategies have here."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ggl.attacks.inversion import invert
from ggl.benchmarks.reproduce.file import load_reproduction
from ggl.benchmarks.reproduce.plan import plan_of
from ggl.benchmarks.speed.gpu_parts.bench import Bench, Case, Outcome, Table, tf32
from ggl.benchmarks.speed.gpu_parts.searching import make_search, rate_of
from ggl.benchmarks.sweeps.cells import packs_of
from ggl.benchmarks.sweeps.execute import SEARCHES, ceilings_of
from ggl.benchmarks.sweeps.spec import Spec
from ggl.gradients import GradientOracle

__all__ = ["count_hours", "works_of"]

MODELED = "turbo"
"""The strategy whose own time grows while it runs: its evaluations are priced by random search."""

PLAIN = "random:population=10"
CEILING, INVERSIONS = "ceilings, by adam", 16
IMAGES = 10
"""Private images of every sweep; a pack searches all of them side by side, with their controls."""

HOUR = 3600


@dataclass(frozen=True)
class Work:
    """Evaluations of one kind: all that its price depends on."""

    prior: str
    strategy: str
    distance: str
    latents: str | None
    backend: str
    evaluations: int


def works_of(specs: Mapping[str, Spec]) -> list[Work]:
    """Return sweeps' evaluations by kind, most first: controls and ceilings too, all defenses together."""
    found: dict[tuple[str, str, str, str | None, str], int] = {}
    for spec in specs.values():
        cells = spec.cells()
        for cell in cells:
            kind = (cell.prior, cell.strategy, cell.distance, cell.latents, cell.backend)
            found[kind] = found.get(kind, 0) + SEARCHES * cell.budget
        for cell in ceilings_of(packs_of(cells, spec.pack)).values():
            kind = (cell.prior, CEILING, "", None, "")
            found[kind] = found.get(kind, 0) + cell.images * cell.ceiling_budget
    works = [Work(*kind, evaluations) for kind, evaluations in found.items()]
    return sorted(works, key=lambda work: -work.evaluations)


def count_hours(bench: Bench) -> Outcome:
    """Price every kind of the paper's evaluations by some generations of its own strategy."""
    works = works_of(plan_of(load_reproduction("ggl"), "paper").specs)
    if bench.size.tiny:
        works = works[:2]
    rows: list[tuple[object, ...]] = []
    notes, total = list(_said(bench)), 0.0
    with tf32(True):
        for number, work in enumerate(works):
            if not bench.left():
                notes.append(f"left out for want of time, and of all: {work}")
                continue
            seconds = bench.left() / (len(works) - number) / 2 if bench.on_gpu else 0.0
            case = _case(bench, work)
            rate = (
                _inverted(bench, case) if work.strategy == CEILING else _searched(bench, case, work, seconds)
            )
            hours = work.evaluations / rate / HOUR
            total += hours
            rows.append((case.name, work.strategy, work.backend, work.evaluations, rate, hours))
    rows.append(("all", None, None, sum(work.evaluations for work in works), None, total))
    heads = ("networks", "strategy", "backend", "evaluations", "evaluations / s", "hours")
    return Outcome([Table("ggl reproduce ggl --scale paper", heads, rows)], notes)


def _said(bench: Bench) -> Iterator[str]:
    yield (
        "every strategy is priced under no defense, and turbo by its evaluations alone: its model's own time "
        "comes on top; sharing and scoring are left out"
    )
    if bench.size.tiny:
        yield "tiny: two kinds of evaluations, on the bundled prior and LeNet: no estimate"


def _case(bench: Bench, work: Work) -> Case:
    """Return the networks that stand for a sweep's prior and its victim, random weights."""
    if work.prior.startswith("pixels"):
        return bench.pixels(bench.imagenet if work.prior.endswith("224") else bench.celeba)
    return bench.imagenet if work.prior.startswith("biggan") else bench.celeba


def _searched(bench: Bench, case: Case, work: Work, seconds: float) -> float:
    """Return evaluations a second of as many searches as a pack has."""
    strategy = PLAIN if work.strategy.startswith(MODELED) else work.strategy
    width = SEARCHES * IMAGES if bench.on_gpu else 1
    if not bench.on_gpu:
        strategy = PLAIN.replace("10", "2")
    oracle = GradientOracle(case.victim, backend=work.backend)
    shared = case.shared(oracle) * width
    search = make_search(case, oracle, shared, strategy, distance=work.distance, latents=work.latents)
    return rate_of(search, seconds)


def _inverted(bench: Bench, case: Case) -> float:
    """Return evaluations a second of the inversion of a pack's images themselves."""
    count, budget = (IMAGES, INVERSIONS) if bench.on_gpu else (1, 4)
    images, labels = case.images(count), case.label.expand(count)
    invert(images, labels, prior=case.prior, budget=4, device=bench.device)
    started = time.perf_counter()
    invert(images, labels, prior=case.prior, budget=budget, device=bench.device)
    return count * budget / (time.perf_counter() - started)
