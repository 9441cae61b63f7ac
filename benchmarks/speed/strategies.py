"""Batched CMA-ES against pycma: overhead of a generation, and evaluations to a target.

    python benchmarks/speed/strategies.py overhead [--threads 1] [--searches 64] [--generations 28]
    python benchmarks/speed/strategies.py convergence [--seeds 20]

`overhead`: seconds of one ask and tell of all searches, the group and as many pycma objects taking turns,
so that a noisy machine disturbs both alike; means after warm-up, since eigendecompositions come only every
few generations. `cpu` is the same in processor time.
`convergence`: evaluations to a loss below the target or, where none gets there, the least loss within the
budget, from mean 0 towards an optimum away from it; medians with 95 % bootstrap intervals, and the p-value
of the Mann-Whitney test. A search that misses its target counts as infinite.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from cma.evolution_strategy import CMAEvolutionStrategy
from scipy.stats import mannwhitneyu  # type: ignore[attr-defined]
from threadpoolctl import threadpool_limits
from torch import Tensor

from ggl.base.random import numpy_stream, stream
from ggl.optimizers.cmaes.searches import BatchedCMAES

CPU = torch.device("cpu")
SIGMA0, TARGET, WARM_UP, RESAMPLES = 0.5, 1e-6, 3, 2000

Objective = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """An objective over (n, d), the evaluations allowed, and what is measured."""

    name: str
    dim: int
    separable: bool
    budget: int
    to_target: bool
    """Whether evaluations to the target are measured; else the least loss within the budget."""


PROBLEMS = (
    Problem("sphere", 20, False, 6_000, True),
    Problem("sphere", 20, True, 6_000, True),
    Problem("ellipsoid", 20, False, 30_000, True),
    Problem("ellipsoid", 20, True, 6_000, False),
    Problem("rosenbrock", 20, False, 40_000, True),
    Problem("rosenbrock", 20, True, 6_000, False),
    Problem("sphere", 128, True, 15_000, True),
    Problem("sphere", 128, False, 4_000, False),
    Problem("ellipsoid", 128, False, 4_000, False),
    Problem("ellipsoid", 128, True, 4_000, False),
    Problem("rosenbrock", 128, False, 4_000, False),
    Problem("rosenbrock", 128, True, 4_000, False),
)


def objective(name: str, dim: int) -> Objective:
    """Return the function, its optimum at 0.5 in every coordinate or, Rosenbrock's, at 1.5."""
    if name == "sphere":
        return lambda z: (z - 0.5).square().sum(1)
    if name == "rosenbrock":
        return lambda z: rosenbrock(z - 0.5)
    normal = torch.randn(dim, dim, dtype=torch.float64, generator=stream(0, "rotation"))
    rotation = torch.linalg.qr(normal).Q
    scales = 10 ** torch.linspace(0, 6, dim, dtype=torch.float64)
    return lambda z: (((z - 0.5) @ rotation.T).square() * scales).sum(1)


def rosenbrock(z: Tensor) -> Tensor:
    """Return the sum over neighbors of 100 (x² - y)² + (x - 1)²."""
    x, y = z[:, :-1], z[:, 1:]
    return (100 * (x.square() - y).square() + (x - 1).square()).sum(1)


def reference(dim: int, population: int | None, separable: bool, seed: int) -> Any:
    """Return pycma's search with its default options."""
    random = numpy_stream(seed, "pycma")
    options = {
        "CMA_diagonal": separable,
        "randn": lambda *shape: random.standard_normal(shape),
        "seed": np.nan,
        "verbose": -10,
    }
    if population is not None:
        options["popsize"] = population
    return CMAEvolutionStrategy(np.zeros(dim), SIGMA0, options)


def losses_of(z: list[Tensor]) -> list[Tensor]:
    """Return a sphere's losses, the same work for both."""
    return list((torch.stack(z) - 0.5).square().sum(2).unbind())


def batched_generation(group: BatchedCMAES) -> Callable[[], None]:
    """Return a call that advances the whole group by a generation."""

    def advance() -> None:
        z = group.ask(range(len(group)))
        group.tell(z, losses_of(z))

    return advance


def reference_generation(searches: list[Any]) -> Callable[[], None]:
    """Return a call that advances every pycma search by a generation."""

    def advance() -> None:
        for search in searches:
            z = search.ask()
            search.tell(z, np.square(np.stack(z) - 0.5).sum(1).tolist())

    return advance


def overhead(dim: int, population: int, searches: int, generations: int) -> None:
    """Print seconds per generation and the ratio."""
    print(f"d = {dim}, λ = {population}, {searches} searches, {torch.get_num_threads()} threads")
    print("| covariance | batched ms | pycma ms | ratio | batched cpu ms | pycma cpu ms | cpu ratio |")
    print("|---|---|---|---|---|---|---|")
    for separable in (False, True):
        group = BatchedCMAES(
            dim, seeds=range(searches), device=CPU, population=population, separable=separable
        )
        others = [reference(dim, population, separable, seed) for seed in range(searches)]
        calls = (batched_generation(group), reference_generation(others))
        times = np.array([[timed(call) for call in calls] for _ in range(WARM_UP + generations)])[WARM_UP:]
        (ours, ours_cpu), (theirs, theirs_cpu) = times.mean(axis=0) * 1e3
        print(
            f"| {'diagonal' if separable else 'full'} | {ours:.1f} | {theirs:.1f} | {theirs / ours:.1f} "
            f"| {ours_cpu:.1f} | {theirs_cpu:.1f} | {theirs_cpu / ours_cpu:.1f} |",
            flush=True,
        )


def timed(call: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds and the processor seconds that a call takes."""
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - processor


class Course:
    """What became of n searches: evaluations to the target, and the least loss."""

    def __init__(self, problem: Problem, searches: int) -> None:
        self.problem = problem
        self.reached, self.least = np.full(searches, np.inf), np.full(searches, np.inf)

    def take(self, k: int, evaluations: int, loss: float) -> None:
        """Take the least loss of a generation of search k, and the evaluations up to its end."""
        self.least[k] = min(self.least[k], loss)
        if loss < TARGET and np.isinf(self.reached[k]):
            self.reached[k] = evaluations

    def open(self, k: int) -> bool:
        """Return whether search k still has something to show."""
        return not self.problem.to_target or bool(np.isinf(self.reached[k]))

    def figure(self) -> np.ndarray:
        """Return what the problem measures, (n,)."""
        return self.reached if self.problem.to_target else self.least


def batched_course(problem: Problem, seeds: int) -> np.ndarray:
    """Return the figure of each search, all searches one group."""
    group = BatchedCMAES(problem.dim, seeds=range(seeds), device=CPU, separable=problem.separable)
    function, course = objective(problem.name, problem.dim), Course(problem, seeds)
    for generation in range(1, problem.budget // group.population + 1):
        active = [k for k, size in enumerate(group.sizes()) if size and course.open(k)]
        if not active:
            break
        z = group.ask(active)
        losses = function(torch.cat(z)).split(group.population)
        group.tell(z, list(losses))
        for k, loss in zip(active, losses, strict=True):
            course.take(k, generation * group.population, float(loss.min()))
    return course.figure()


def reference_course(problem: Problem, seeds: int) -> np.ndarray:
    """Return the figure of each of pycma's searches."""
    function, course = objective(problem.name, problem.dim), Course(problem, seeds)
    for seed in range(seeds):
        search = reference(problem.dim, None, problem.separable, seed)
        while (
            search.countevals + search.popsize <= problem.budget and course.open(seed) and not search.stop()
        ):
            z = search.ask()
            loss = function(torch.from_numpy(np.stack(z)))
            search.tell(z, loss.tolist())
            course.take(seed, search.countevals, float(loss.min()))
    return course.figure()


def interval(values: np.ndarray) -> str:
    """Return the median with its 95 % bootstrap interval."""
    random = numpy_stream(0, "bootstrap")
    samples = random.choice(values, (RESAMPLES, len(values)))
    low, high = np.quantile(
        np.quantile(samples, 0.5, axis=1, method="lower"), [0.025, 0.975], method="nearest"
    )
    return f"{np.quantile(values, 0.5, method='lower'):.3g} [{low:.3g}, {high:.3g}]"


def convergence(seeds: int) -> None:
    """Print evaluations to the target, or the loss at the budget."""
    print(f"{seeds} seeds, λ by default, σ0 = {SIGMA0}, target {TARGET:g}")
    print(
        "| function | d | covariance | budget | figure | batched | pycma | p | batched cpu s | pycma cpu s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for problem in PROBLEMS:
        started = time.process_time()
        ours = batched_course(problem, seeds)
        between = time.process_time()
        theirs = reference_course(problem, seeds)
        spent = between - started, time.process_time() - between
        print(
            f"| {problem.name} | {problem.dim} | {'diagonal' if problem.separable else 'full'} "
            f"| {problem.budget} | {'evaluations' if problem.to_target else 'loss'} "
            f"| {interval(ours)} | {interval(theirs)} | {mannwhitneyu(ours, theirs).pvalue:.2f} "
            f"| {spent[0]:.1f} | {spent[1]:.1f} |",
            flush=True,
        )


def main() -> None:
    """Print the table asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("figure", choices=["overhead", "convergence"])
    parser.add_argument("--dim", type=int, default=128, help="of `overhead`")
    parser.add_argument("--population", type=int, default=50, help="of `overhead`")
    parser.add_argument("--searches", type=int, default=64, help="of `overhead`")
    parser.add_argument("--generations", type=int, default=28, help="of `overhead`")
    parser.add_argument("--seeds", type=int, default=20, help="of `convergence`")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with threadpool_limits(options.threads):
        if options.figure == "overhead":
            overhead(options.dim, options.population, options.searches, options.generations)
        else:
            convergence(options.seeds)


if __name__ == "__main__":
    main()
