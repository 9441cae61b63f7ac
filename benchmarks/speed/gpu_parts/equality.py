"""Whether backends agree on a device, and resumed strategies end there where they would have ended."""

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from ggl.attacks.course import SearchResult
from ggl.benchmarks.speed.gpu_parts.bench import Bench, Outcome, Table, tf32
from ggl.benchmarks.speed.gpu_parts.searching import make_search
from ggl.gradients import GradientOracle, View
from ggl.optimizers import strategies
from ggl.victims import load_victim

__all__ = ["check_equality", "repeatable"]

VICTIMS = ("lenet", "mlp", "convnet", "vit", "resnet18", "resnet18-groupnorm")
BACKENDS = ("sequential", "vmap", "layerwise")
TOLERANCE = 1e-3
"""Relative difference from the sequential backend on a CPU, as `ggl.gradients.backends` has it."""

CANDIDATES = 3
OPTIONS = {"bo": ":initial=64,population=48", "turbo": ":initial=64,population=48"}
"""Options that make the generations of costly strategies few."""

BUDGET, KILLED = 160, 70
"""Evaluations of a search, and those after which it is killed; d = 64."""

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def repeatable() -> None:
    """Have cuBLAS give the same sums every time: to be called before a GPU is first used."""
    os.environ.setdefault(WORKSPACE, ":4096:8")


def check_equality(bench: Bench) -> Outcome:
    """Score the same candidates by all backends, and search, kill and resume with all strategies."""
    with tf32(False):
        scores, wrong = _backends(bench)
        resumed, differ = _strategies(bench)
    return Outcome([scores, resumed], (), [*wrong, *differ])


def _backends(bench: Bench) -> tuple[Table, list[str]]:
    rows, failures = [], []
    victims = VICTIMS[:1] if bench.size.tiny else VICTIMS
    for name in victims:
        victim = load_victim(name, in_channels=3, num_classes=10, image_size=32)
        for distance in ("l2", "cosine"):
            expected = _scored(victim, "sequential", distance, torch.device("cpu"))
            for backend in BACKENDS:
                found = _scored(victim, backend, distance, bench.device)
                error = max(_difference(a, b) for a, b in zip(found, expected, strict=True))
                rows.append((name, distance, backend, error))
                if not error <= TOLERANCE:
                    failures.append(f"{name}, {distance}, {backend}: differs by {error:.1e}")
    heads = ("victim", "distance", "backend", "difference from sequential on a CPU")
    return Table("Backends: scores and their derivatives", heads, rows), failures


def _scored(victim: nn.Module, backend: str, distance: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return three candidates' scores, and the derivative of their sum, on the CPU."""
    random = torch.Generator().manual_seed(0)
    images = torch.rand(CANDIDATES + 1, 3, 32, 32, generator=random).to(device)
    labels = torch.tensor([1], device=device)
    oracle = GradientOracle(victim.to(device), backend=backend)
    view = View(oracle.observe(images[:1], labels))
    candidates = images[1:].requires_grad_()
    scores = oracle.score(candidates, labels, view, distance)
    (slope,) = torch.autograd.grad(scores.sum(), candidates)
    return scores.detach().cpu(), slope.cpu()


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def _strategies(bench: Bench) -> tuple[Table, list[str]]:
    rows, failures = [], []
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(bench.on_gpu, warn_only=True)
    try:
        for name in strategies.names():
            first, second = _searched(bench, name + OPTIONS.get(name, ""))
            same = first.history == second.history and torch.equal(first.latents, second.latents)
            rows.append((name, first.evaluations, first.loss, "yes" if same else "NO"))
            if not same:
                failures.append(f"{name}: a resumed search ended at {second.loss:g}, not at {first.loss:g}")
    finally:
        torch.use_deterministic_algorithms(before)
    heads = ("strategy", "evaluations", "least loss", "resumed to the same")
    return Table("Strategies, killed and resumed", heads, rows), failures


def _searched(bench: Bench, strategy: str) -> tuple[SearchResult, SearchResult]:
    """Return the result of a whole search, and of one that was killed on its way and resumed."""
    case = bench.small
    oracle = case.oracle()
    shared = case.shared(oracle)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "search.safetensors"
        whole = make_search(case, oracle, shared, strategy, budget=BUDGET).run()
        make_search(case, oracle, shared, strategy, budget=BUDGET, checkpoint=file).run(until=KILLED)
        resumed = make_search(case, oracle, shared, strategy, budget=BUDGET, checkpoint=file).run()
    return whole[0], resumed[0]
