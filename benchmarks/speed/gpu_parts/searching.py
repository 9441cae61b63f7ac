"""Searches of a case's own images, as attacks run them, and what they do in a second."""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ggl.attacks.latents import load_latents
from ggl.attacks.objectives import GradientMatch
from ggl.attacks.search import Search
from ggl.benchmarks.speed.gpu_parts.bench import Case
from ggl.gradients import GradientOracle, Gradients, View
from ggl.optimizers import load_group

__all__ = ["make_search", "rate_of"]

UNLIMITED = 10**6
"""Evaluations of a search that time ends."""


class _EnoughError(Exception):
    """The time is up."""


def make_search(
    case: Case,
    oracle: GradientOracle,
    shared: Sequence[Gradients],
    strategy: str,
    *,
    budget: int = UNLIMITED,
    distance: str = "cosine",
    latents: str | None = None,
    checkpoint: Path | None = None,
) -> Search:
    """Return searches side by side, one for each observed gradient."""
    prior = case.prior
    return Search(
        prior,
        case.label.expand(len(shared), 1),
        GradientMatch(oracle, [View(gradient) for gradient in shared], distance),
        load_group(
            strategy,
            latent_dim=prior.latent_dim,
            budget=budget,
            seeds=range(len(shared)),
            device=case.device,
        ),
        budget=budget,
        latents=load_latents(latents or prior.latents),
        device=torch.device(case.device),
        checkpoint=checkpoint,
    )


def rate_of(search: Search, seconds: float) -> float:
    """Return evaluations a second, all of a generation counted, of at least one after the first.

    A generation ends with its losses on the host: no clock runs ahead of the device.
    """
    marks: list[tuple[int, float]] = []

    def mark(done: int, planned: int, loss: float) -> None:  # noqa: ARG001
        marks.append((done, time.perf_counter()))
        if len(marks) > 1 and marks[-1][1] - marks[0][1] > seconds:
            raise _EnoughError

    with contextlib.suppress(_EnoughError):
        search.run(mark)
    (before, started), (after, ended) = marks[0], marks[-1]
    return (after - before) / (ended - started)
