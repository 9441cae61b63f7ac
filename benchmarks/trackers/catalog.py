"""Trackers by name: "tensorboard", "wandb:project", "mlflow:http://host:5000", "package.module:Class"."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

from ggl.base.errors import InputError
from ggl.base.options import build
from ggl.base.registry import Registry
from ggl.benchmarks.trackers.base import Guarded, NoTracker, Tracker
from ggl.benchmarks.trackers.mlflow import MLflow
from ggl.benchmarks.trackers.tensorboard import TensorBoard
from ggl.benchmarks.trackers.wandb import WandB

__all__ = ["load_tracker", "register_tracker", "trackers"]

TrackerFactory: TypeAlias = Callable[..., object]
"""A `Tracker` class, or a function that returns one: (folder, and options by annotated parameters)."""

trackers: Registry[TrackerFactory] = Registry("tracker", "ggl.trackers")
register_tracker = trackers.register

register_tracker("none")(NoTracker)
register_tracker("tensorboard")(TensorBoard)
register_tracker("wandb")(WandB)
register_tracker("mlflow")(MLflow)


def load_tracker(specification: str, folder: Path) -> Tracker:
    """Return the tracker of "name", "name:value,option=value" or "package.module:Class:option=value".

    Its own failures, once it has started, are warnings; see `Guarded`.

    Args:
        specification: a registered name or the user's own class, with options.
        folder: the store's.

    Raises:
        UnknownNameError: a name or an option that is not known.
        InputError: a package that is not installed; an option that is missing or of the wrong kind;
            something that is no tracker.
    """
    factory, text = trackers.resolve(specification)
    what = f"tracker {specification!r}"
    tracker = build(what, partial(factory, folder), text)
    if not isinstance(tracker, Tracker):
        raise InputError(
            f"{what}: expected start, record, close and errors, found {type(tracker).__name__} without; "
            "see docs/trackers.md"
        )
    return Guarded(specification, tracker)
