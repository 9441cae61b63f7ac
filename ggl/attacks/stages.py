"""A named stage's progress and checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from ggl.attacks.checkpoints import fingerprint
from ggl.attacks.search import Progress

__all__ = ["Stage", "checkpoint_of", "progress_of"]

Stage: TypeAlias = Callable[[str, int, int, float], None]
"""Called with a stage's title, evaluations done, those planned, and the mean best loss."""


def checkpoint_of(folder: Path | None, title: str) -> Path | None:
    """Return the file in which a stage's search is kept."""
    return None if folder is None else folder / f"{fingerprint({'stage': title}, [])[:16]}.safetensors"


def progress_of(report: Stage | None, title: str) -> Progress | None:
    """Return what a stage's search calls."""
    return None if report is None else lambda done, planned, loss: report(title, done, planned, loss)
