"""Every strategy at equal objective evaluations: what each recovers, and what it costs.

    python benchmarks/studies/strategies.py [--workers 2] [--only cma-es adam]
    python benchmarks/studies/strategies_table.py

Victims, defenses, images, seeds and budgets were written down before anything was run; how far each
strategy goes (`PLAN`) was set while it ran, by the hours at hand. Ten held-out Fashion-MNIST images, one a
class, each attacked with three seeds (ResNet-18: six images, one seed); a strategy's searches of a cell run
side by side in a process of one thread. Rows are added to `benchmarks/results/strategies.csv` as cells end,
and a command that was stopped goes on with the cells that are missing there. Seconds are the process's CPU
seconds a search, so that other work on the machine counts little.
"""

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch

from ggl.attacks.course import SearchResult
from ggl.attacks.latents import load_latents
from ggl.attacks.objectives import GradientMatch
from ggl.attacks.search import Search
from ggl.audits.controls import choose_decoys
from ggl.base.errors import InputError
from ggl.base.random import stream, stream_seed
from ggl.benchmarks.studies.strategies_cells import Row, StudyCell
from ggl.benchmarks.studies.tables import read_csv, write_csv
from ggl.datasets.loading import load_dataset
from ggl.datasets.picking import pick_private
from ggl.defenses import load_defense
from ggl.generators import load_prior
from ggl.gradients import GradientOracle
from ggl.measures.leakage import score
from ggl.optimizers import load_group, load_strategy
from ggl.victims import load_victim

PRIOR, DATA = "fashion-dcgan32", "fashion-mnist-heldout"
SEARCHES = {"lenet": (10, 3), "mlp": (10, 3), "convnet": (10, 3), "resnet18": (6, 1)}
"""Images, and seeds of each one's searches, by victim: ResNet-18 takes 30 ms an evaluation."""

CLASSES = 10
"""`CLASSES` images are drawn, one a class; of fewer, the first classes' are taken."""

DISTANCE = "cosine"
ATTACKER = "adaptive"
BUDGETS = (500, 2_000, 10_000, 25_000)
FINE = (1_000, 1_500, 2_500, 5_000)
"""Further budgets at which `cma-es` is scored without a defense, and `gauss-newton` in every cell."""

NOISE = {"lenet": "noise:0.2", "mlp": "noise:0.005"}
"""Per victim: a standard deviation of about the root mean square of the victim's gradients."""

DEFENSES: dict[str, Sequence[str]] = {
    **{victim: ("none", noise, "prune:0.9") for victim, noise in NOISE.items()},
    **{victim: ("none",) for victim in SEARCHES if victim not in NOISE},
}

PATTERN, SCALAR, RESIDUAL = "nevergrad-cma-ggl", "cma-es", "gauss-newton"
"""The published loop, the reference that is told losses, and the search that is told residuals."""

EVERY = (SCALAR, "sep-cma-es", PATTERN, "random", "adam", "l-bfgs", "basin-cma", "pycma", "nevergrad")
VARIANTS = (
    *("pycma:variant=dd", "pycma:variant=vkd", "nevergrad:optimizer=DiagonalCMA", "nevergrad:optimizer=DE"),
    *("sep-cma-es:sigma0=0.3", "cma-es:sigma0=0.3", "cma-es:sigma0=1", "cma-es:population=50"),
)
"""Settings of the above."""

BO, TURBO = "bo:population=50", "turbo"
"""Their own time bounds their budget: 500 evaluations."""

PLAN: tuple[tuple[str, Sequence[str], int, Sequence[str]], ...] = (
    ("lenet", ("none",), 25_000, (SCALAR, PATTERN, "random")),
    ("mlp", ("none",), 25_000, ("random", SCALAR)),
    ("lenet", ("none",), 500, (BO, TURBO)),
    ("lenet", ("none",), 10_000, ("sep-cma-es", "adam", "l-bfgs", "pycma:variant=dd")),
    ("mlp", ("none",), 10_000, ("sep-cma-es", "adam", PATTERN)),
    ("lenet", DEFENSES["lenet"], 2_000, EVERY),
    ("mlp", DEFENSES["mlp"], 2_000, EVERY),
    ("lenet", DEFENSES["lenet"], 2_000, VARIANTS),
    ("mlp", ("none",), 500, (TURBO,)),
    ("lenet", DEFENSES["lenet"][1:], 500, (TURBO,)),
    ("mlp", DEFENSES["mlp"][1:], 500, (TURBO,)),
    ("lenet", DEFENSES["lenet"][1:], 10_000, (SCALAR, "adam")),
    ("mlp", DEFENSES["mlp"][1:], 10_000, (SCALAR, "adam")),
    ("mlp", ("none",), 500, (BO,)),
    ("mlp", ("none",), 10_000, ("l-bfgs",)),
    ("lenet", ("none",), 2_000, ("turbo:population=50", "turbo:regions=5,population=50")),
    ("lenet", ("none",), 10_000, ("pycma", "nevergrad", "basin-cma")),
    ("lenet", ("none",), 25_000, ("adam", "sep-cma-es")),
    ("lenet", DEFENSES["lenet"][1:], 500, (BO,)),
    ("mlp", DEFENSES["mlp"][1:], 500, (BO,)),
    ("lenet", DEFENSES["lenet"], 2_000, (RESIDUAL,)),
    ("mlp", DEFENSES["mlp"], 2_000, (RESIDUAL,)),
    ("lenet", DEFENSES["lenet"], 2_000, ("eki",)),
    ("mlp", ("none",), 2_000, ("eki",)),
    ("convnet", ("none",), 2_000, (SCALAR, RESIDUAL, "adam")),
    ("resnet18", ("none",), 2_000, (RESIDUAL, SCALAR, "adam")),
)
"""Victim, defenses, the longest budget, strategies, in the order of running: what the headline comparisons
need comes first. The whole grid to 25,000 would take two cores a day."""

RULES = {"free": 10_000, "tanh": 10_000, "shell:0.01": 2_000, "kld:0.1": 2_000, "box:2": 2_000}
"""Latent rules that the default is run with besides the prior's own, and how far, without a defense.

The published pattern brings its own tanh and knows no penalty: `free` for it is `tanh` for the default.
"""

EQUAL_TIME = 3_450
"""Evaluations of Adam that take the CPU time of the default's 10,000, from the seconds of earlier rows."""

RESULTS = Path(__file__).parents[1] / "results" / "strategies.csv"


def plan(only: Sequence[str] = ()) -> list[StudyCell]:
    """Return every cell, in the order of running."""
    cells = [
        cell
        for victim, defenses, longest, strategies in PLAN
        for defense in defenses
        for strategy in strategies
        for cell in _cells(victim, defense, strategy, longest)
    ]
    cells = list(dict.fromkeys([cells[0], *_extra_cells(), *cells]))
    longest = [cell for cell in cells if not any(set(cell.keys) < set(other.keys) for other in cells)]
    return [cell for cell in longest if not only or cell.strategy in only]


def _extra_cells() -> list[StudyCell]:
    """Return the cells of other latent rules, and of Adam in the default's time."""
    rules = [
        StudyCell("lenet", "none", SCALAR, _up_to(longest, fine=rule in ("free", "tanh")), rule)
        for rule, longest in RULES.items()
    ]
    free = [
        StudyCell("lenet", "none", PATTERN, BUDGETS[-1:], "free"),
        StudyCell("lenet", "none", RESIDUAL, _up_to(2_000, fine=True), "free"),
    ]
    return [*rules, *free, StudyCell("lenet", "none", "adam", (EQUAL_TIME,))]


def labels() -> list[str]:
    """Return the strategies with their latent rules in the order of the tables; builds none of them."""
    planned = (strategy for *_, strategies in PLAN for strategy in strategies)
    return list(dict.fromkeys([SCALAR, *(cell.label for cell in _extra_cells()), *planned]))


def _cells(victim: str, defense: str, strategy: str, longest: int) -> Iterator[StudyCell]:
    """Yield one cell for all budgets that an anytime strategy passes on its way.

    Others need one a budget, and are run at the longest alone on the MLP and where there is a defense.
    """
    scalar = strategy == SCALAR and defense == "none" and victim in NOISE
    within = _up_to(longest, fine=scalar or strategy == RESIDUAL)
    budgets = tuple(budget for budget in within if _is_possible(strategy, budget))
    if load_strategy(strategy, latent_dim=64, budget=longest, seed=0).anytime:
        yield StudyCell(victim, defense, strategy, budgets)
        return
    first = next(iter(DEFENSES))
    yield from (
        StudyCell(victim, defense, strategy, (budget,))
        for budget in budgets
        if budget == budgets[-1] or (victim == first and defense == "none") or victim not in NOISE
    )


def _up_to(longest: int, *, fine: bool) -> tuple[int, ...]:
    """Return the budgets to be scored at, ascending."""
    return tuple(budget for budget in sorted((*BUDGETS, *(FINE if fine else ()))) if budget <= longest)


def _is_possible(strategy: str, budget: int) -> bool:
    """Return whether a strategy takes a budget: an initial design may be larger."""
    try:
        load_strategy(strategy, latent_dim=64, budget=budget, seed=0)
    except InputError:
        return False
    return True


def write_rows(rows: Iterable[Row], path: Path = RESULTS) -> None:
    """Write rows, sorted, atomically."""
    path.parent.mkdir(exist_ok=True)
    write_csv(path, Row, sorted(rows, key=lambda row: (row.key, row.image, row.seed)))


class Bench:
    """The private images, their gradients and what scores a reconstruction, for one victim and defense."""

    def __init__(self, victim: str, defense: str, distance: str = DISTANCE) -> None:
        data, (images, seeds) = load_dataset(DATA), SEARCHES[victim]
        rows = pick_private(data.labels, CLASSES, 0)[:images].repeat_interleave(seeds)
        self.seeds, self.images, self.labels = seeds, data.images[rows], data.labels[rows]
        decoys = choose_decoys(self.images[::seeds], self.labels[::seeds], data.images, data.labels, 0)
        self.decoys = [images for images in decoys.images for _ in range(seeds)]
        self.oracle = GradientOracle(
            load_victim(victim, in_channels=1, num_classes=10, image_size=32, seed=0)
        )
        known = load_defense(defense)
        shared = [
            known.protect(
                self.oracle.observe(image[None], label[None]), stream(i % seeds, "client", i // seeds)
            )
            for i, (image, label) in enumerate(zip(self.images, self.labels, strict=True))
        ]
        self.objective = GradientMatch(self.oracle, [known.view(g, ATTACKER) for g in shared], distance)

    def search(self, cell: StudyCell) -> Search:
        """Return the searches of a cell, image by image and seed by seed."""
        prior = load_prior(PRIOR)
        seeds = [stream_seed(i % self.seeds, "image", i // self.seeds) for i in range(len(self.images))]
        return Search(
            prior,
            self.labels[:, None],
            self.objective,
            load_group(cell.strategy, latent_dim=prior.latent_dim, budget=cell.budgets[-1], seeds=seeds),
            budget=cell.budgets[-1],
            latents=load_latents(cell.latents or prior.latents),
            device=torch.device("cpu"),
        )


def run_cell(cell: StudyCell) -> list[Row]:
    """Run one cell and return its rows."""
    torch.set_num_threads(1)
    bench = Bench(cell.victim, cell.defense)
    search = bench.search(cell)
    seconds = 0.0
    rows: list[Row] = []
    for budget in cell.budgets:
        started = time.process_time()
        results = search.run(until=budget)
        seconds += time.process_time() - started
        rows += _rows(cell, budget, results, bench, seconds / len(results))
    return rows


def _rows(
    cell: StudyCell, budget: int, results: Sequence[SearchResult], bench: Bench, seconds: float
) -> Iterator[Row]:
    """Yield what each search had found within a budget."""
    scores = score(torch.cat([r.images for r in results]), bench.images, bench.decoys, {})
    for i, result in enumerate(results):
        yield Row(
            victim=cell.victim,
            defense=cell.defense,
            strategy=cell.label,
            budget=budget,
            image=i // bench.seeds,
            seed=i % bench.seeds,
            loss=round(result.loss, 7),
            psnr=round(float(scores.values["psnr"][i]), 2),
            rank=int(scores.ranks[i]),
            seconds=round(seconds, 2),
        )


def run(workers: int, only: Sequence[str]) -> None:
    """Run every cell whose rows are missing, in the order of the plan."""
    rows: list[Row] = read_csv(RESULTS, Row)
    there = {row.key for row in rows}
    todo = [cell for cell in plan(only) if not there.issuperset(cell.keys)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(run_cell, cell): cell for cell in todo}
        for done in as_completed(pending):
            cell = pending[done]
            rows = [row for row in rows if row.key not in cell.keys] + done.result()
            write_rows(rows)
            print(f"{cell.victim}, {cell.defense}, {cell.label}, {cell.budgets[-1]}", flush=True)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workers", type=int, default=2, help="cells at once, one thread each")
    parser.add_argument("--only", nargs="+", default=[], help="strategies")
    arguments = parser.parse_args()
    run(arguments.workers, arguments.only)


if __name__ == "__main__":
    main()
