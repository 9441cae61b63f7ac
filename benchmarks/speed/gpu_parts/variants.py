"""Ways to score one population, and the plain pass that is the limit of each."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ggl.benchmarks.speed.gpu_parts.bench import Bench, Case, tf32
from ggl.generators import Prior
from ggl.gradients import GradientOracle, View

__all__ = ["PRECISIONS", "Score", "Variant", "make_limit", "make_score", "variants_of"]

PRECISIONS = ("float32", "tf32", "bf16", "bf16, generator too")
"""`bf16` is the oracle's precision="bfloat16" beside a generator whose products are rounded to TF32; the
product has no option to run a generator in bfloat16."""

FORMATS: dict[str, torch.memory_format | None] = {
    "as loaded": None,
    "contiguous": torch.contiguous_format,
    "channels last": torch.channels_last,
}
"""Of the weights of prior and victim; as loaded, a prior's are channels last and a victim's contiguous."""

WARM_UPS = 3
"""Calls before one is captured as a CUDA graph."""

Score = Callable[[], Tensor]


@dataclass(frozen=True)
class Variant:
    """One way: how products are rounded, in which memory format weights lie, how kernels are launched."""

    population: int
    precision: str = "float32"
    formats: str = "as loaded"
    launch: str = "eager"

    @contextmanager
    def rounding(self) -> Iterator[None]:
        """Have float32 products rounded as this variant wants it."""
        with tf32(self.precision != "float32"):
            yield

    def victim_cast(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        """Return the autocast of a victim's pass."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision.startswith("bf16"))

    def generator_cast(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        """Return the autocast of a generator's pass."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == PRECISIONS[3])


def variants_of(bench: Bench) -> list[Variant]:
    """Return what is measured: precisions by population, then the rest at the middle population."""
    populations = bench.size.populations
    middle = populations[len(populations) // 2]
    precisions = PRECISIONS[:3] if bench.on_gpu else ("float32", "bf16")
    found = [Variant(p, precision) for p, precision in itertools.product(populations, precisions)]
    found += [Variant(middle, "bf16", formats) for formats in FORMATS if FORMATS[formats] is not None]
    found.append(Variant(middle, PRECISIONS[3]))
    if bench.on_gpu:
        found += [Variant(middle, "bf16", launch=launch) for launch in ("CUDA graph", "torch.compile")]
    return found


def make_score(case: Case, variant: Variant) -> Score:
    """Return a call that decodes and scores a population, and returns its losses on the device."""
    prior, victim = case.copies(FORMATS[variant.formats])
    precision = "bfloat16" if variant.precision.startswith("bf16") else "float32"
    oracle = case.oracle(victim, precision=precision)
    view = oracle.prepare(View(case.shared(oracle)[0]))
    z, labels = case.latents(variant.population), case.label.expand(variant.population)
    decode: Any = prior.decode
    if variant.launch == "torch.compile":
        decode = torch.compile(prior.decode, dynamic=False)

    @torch.no_grad()
    def score() -> Tensor:
        with variant.generator_cast(case.device):
            images = decode(z, labels)
        return oracle.score_groups(images[:, None], labels[:, None], [view], [len(z)], "cosine")

    return _captured(score, oracle) if variant.launch == "CUDA graph" else score


def make_limit(case: Case, variant: Variant) -> Callable[[], None]:
    """Return the plain pass: a batch is generated, and the victim's mean gradient on it is taken, once."""
    prior, victim = case.copies(FORMATS[variant.formats])
    z, labels = case.latents(variant.population), case.label.expand(variant.population)

    def plain() -> None:
        images = _generated(prior, z, labels, variant)
        with variant.victim_cast(case.device):
            loss = cross_entropy(victim(images.float()), labels)
        victim.zero_grad()
        loss.backward()

    return plain


@torch.no_grad()
def _generated(prior: Prior, z: Tensor, labels: Tensor, variant: Variant) -> Tensor:
    with variant.generator_cast(z.device):
        return prior.decode(z, labels)


def _captured(score: Score, oracle: GradientOracle) -> Score:
    """Return the call as a CUDA graph: all kernels are launched at once and write where they did before."""
    score()  # the victim is looked at, once
    _take_hooks_off(oracle)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            score()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        losses = score()

    def replay() -> Tensor:
        graph.replay()
        return losses

    return replay


def _take_hooks_off(oracle: GradientOracle) -> None:
    """Take off the hooks that seed the random streams: those of a GPU may not be read in a capture.

    Nothing is lost: the victims here draw nothing.
    """
    model: nn.Module = oracle._backend.model  # type: ignore[union-attr]
    model._forward_pre_hooks.clear()
    model._forward_hooks.clear()
