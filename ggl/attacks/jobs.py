"""Searches cut into jobs: by their number and the device alone, never by who computes them."""

import pickle
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ggl.attacks.course import SearchResult
from ggl.attacks.inversion import invert, search_targets
from ggl.attacks.search import Progress
from ggl.attacks.settings import AttackSettings
from ggl.attacks.stages import checkpoint_of
from ggl.attacks.target import Target
from ggl.base.processes import HandOverError, in_one_line, tell
from ggl.base.random import global_stream, stream_seed
from ggl.generators import Prior
from ggl.gradients import GradientOracle

__all__ = [
    "JOBS",
    "LARGEST",
    "PAUSE",
    "Computed",
    "Job",
    "inversion_jobs",
    "pack",
    "run_elsewhere",
    "search_jobs",
]

JOBS = 6
"""A stage on a CPU is cut into so many jobs, or into as many as it has searches."""

LARGEST = 8
"""Searches of a job at most, on a CPU: more side by side are no faster. A GPU takes all at once."""

ROWS = ("targets", "images", "labels")
"""What a job has one of for each search."""

PAUSE = 0.1
"""Seconds between what a worker tells of its progress."""


@dataclass(frozen=True)
class Computed:
    """What became of a job: its searches, the seconds that they took, and warnings with their places."""

    results: list[SearchResult]
    seconds: float
    warnings: list[tuple[str, type[Warning], str, int]]


@dataclass(frozen=True)
class Job:
    """Searches that run side by side in one process; what they find follows from these fields alone.

    Attributes:
        title: of the stage that the job is a part of.
        number: its own in the stage.
        searches: how many.
        budget: evaluations of each.
        seed: of what draws from the global random streams.
        function: returns their results, given `progress` and all below by name.
        common: what jobs of the stage share, which computing may touch: only between jobs can it be pickled.
        own: what is the job's alone.
    """

    title: str
    number: int
    searches: int
    budget: int
    seed: int
    function: Callable[..., list[SearchResult]]
    common: Mapping[str, object]
    own: Mapping[str, object]

    def part(self, searches: int) -> "Job":
        """Return the first of its searches alone."""
        own = {name: given[:searches] if name in ROWS else given for name, given in self.own.items()}  # type: ignore[index]
        return replace(self, searches=min(searches, self.searches), own=own)

    def run(self, progress: Progress) -> Computed:
        """Compute it here."""
        started = time.monotonic()
        seed = stream_seed(self.seed, "job", self.title, self.number)
        with warnings.catch_warnings(record=True) as caught, global_stream(seed):
            warnings.simplefilter("default")
            results = self.function(**self.common, **self.own, progress=progress)
        told = [(str(w.message), w.category, w.filename, w.lineno) for w in caught]
        return Computed(results, time.monotonic() - started, told)


def pack(job: Job) -> bytes:
    """Return what the jobs of a stage share, for `run_elsewhere`.

    Raises:
        HandOverError: it can't be pickled.
    """
    try:
        return pickle.dumps(dict(job.common))
    except Exception as error:
        raise HandOverError(in_one_line(error)) from error


def run_elsewhere(packed: bytes, job: Job) -> Computed:
    """Compute a job in a worker, which tells its progress.

    Raises:
        HandOverError: what was packed can't be made again here.
    """
    try:
        common = pickle.loads(packed)  # noqa: S301
    except Exception as error:
        raise HandOverError(in_one_line(error)) from error
    last = 0.0

    def progress(*noted: float) -> None:
        nonlocal last
        if time.monotonic() - last > PAUSE:
            last = time.monotonic()
            tell(noted)

    return replace(job, common=common).run(progress)


def search_jobs(
    title: str,
    oracle: GradientOracle,
    targets: Sequence[Target],
    settings: AttackSettings,
    checkpoints: Path | None,
) -> list[Job]:
    """Return the jobs of `search_targets`, whose results follow each other in the order of the targets."""
    common = {"oracle": oracle, "settings": settings}
    return [
        Job(
            title,
            number,
            len(targets[rows]),
            settings.budget,
            settings.seed,
            search_targets,
            common,
            {"targets": targets[rows], "checkpoint": _checkpoint(checkpoints, title, number)},
        )
        for number, rows in enumerate(_parts(len(targets), oracle.device))
    ]


def inversion_jobs(
    title: str,
    images: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    *,
    prior: Prior,
    budget: int,
    seed: int,
    device: torch.device,
    checkpoints: Path | None,
) -> list[Job]:
    """Return the jobs of `invert`, whose results follow each other in the order of the images."""
    common = {"prior": prior, "budget": budget, "seed": seed, "device": device}
    return [
        Job(
            title,
            number,
            len(images[rows]),
            budget,
            seed,
            invert,
            common,
            {
                "images": images[rows].clone(),
                "labels": labels[rows].clone(),
                "first": rows.start,
                "checkpoint": _checkpoint(checkpoints, title, number),
            },
        )
        for number, rows in enumerate(_parts(len(images), device))
    ]


def _parts(searches: int, device: torch.device) -> list[slice]:
    """Return the searches of each job.

    >>> [(rows.start, rows.stop) for rows in _parts(14, torch.device("cpu"))]
    [(0, 3), (3, 6), (6, 9), (9, 12), (12, 14)]
    >>> _parts(14, torch.device("cuda"))
    [slice(0, 14, None)]
    """
    size = min(LARGEST, -(-searches // JOBS)) if device.type == "cpu" else searches
    return [slice(start, min(start + size, searches)) for start in range(0, searches, size)]


def _checkpoint(folder: Path | None, title: str, number: int) -> Path | None:
    return checkpoint_of(folder, f"{title}, job {number}")
