"""Out-of-memory, provoked: a chunk that does not fit is halved, and the scores stay what they are."""

import torch
from torch import Tensor

from ggl.benchmarks.speed.gpu_parts.bench import Bench, Case, Outcome, Table, tf32
from ggl.benchmarks.speed.gpu_parts.timing import peak_gib, timed
from ggl.gradients import GradientOracle, View

__all__ = ["provoke"]

PROBE = 8
"""Candidates whose memory is measured; so many more than fit are scored, in halves."""

TIMES, FITS = 16, 3
TOLERANCE = 1e-3


def provoke(bench: Bench) -> Outcome:
    """Forbid a GPU the memory of all but a few candidates, and score many."""
    if not bench.on_gpu:
        return Outcome(
            notes=[
                "skipped: a CPU's memory cannot be limited for one call; tests/gradients/test_backends.py "
                "has the halving itself"
            ]
        )
    case = bench.imagenet
    with tf32(False):
        images = torch.rand(TIMES * PROBE, 1, *case.prior.image_shape, device=bench.device)
        oracle = case.oracle(chunk_size=PROBE)
        view = oracle.prepare(View(case.shared(oracle)[0]))
        expected = _scores(case, oracle, images, view)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(bench.device) / 2**30
        probe = (peak_gib(lambda: _scores(case, oracle, images[:PROBE], view), bench.device) or 0) - before
        limited = case.oracle(chunk_size=len(images))
        limited.count_classes(case.prior.image_shape)  # the look at the victim, before memory is short
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(bench.device).total_memory / 2**30
        torch.cuda.set_per_process_memory_fraction((before + FITS * probe) / total, bench.device)
        try:
            found: list[Tensor] = []
            seconds = timed(lambda: found.append(_scores(case, limited, images, view)), bench.device)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, bench.device)
    error = float(((found[0] - expected) / expected).abs().max())
    halved = limited.chunks.size < len(images)
    failures = [] if halved else ["nothing ran out of memory"]
    failures += [] if error <= TOLERANCE else [f"scores differ by {error:.1e} after the halving"]
    heads = ("networks", "candidates", "GiB of 8", "GiB allowed", "chunk after", "seconds", "difference")
    row = (case.name, len(images), probe, FITS * probe, limited.chunks.size, seconds, error)
    return Outcome([Table("Out of memory, provoked", heads, [row])], (), failures)


def _scores(case: Case, oracle: GradientOracle, images: Tensor, view: View) -> Tensor:
    labels = case.label.expand(len(images), 1)
    return oracle.score_groups(images, labels, [view], [len(images)], "cosine")
