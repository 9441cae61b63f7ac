"""Weights & Biases: a run a group, in the mode that WANDB_MODE says."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ggl.benchmarks.trackers.base import import_package
from ggl.benchmarks.trackers.content import STEPS, Point
from ggl.benchmarks.trackers.grouped import GroupedTracker, store_id

__all__ = ["WandB"]


class WandB(GroupedTracker[Any]):
    """Writes to a project of Weights & Biases; local files are in `folder`/wandb.

    Args:
        folder: the store's.
        project: where the runs go.
        entity: the team or user it belongs to; None for the account's own.
    """

    def __init__(self, folder: Path, project: str = "ggl", *, entity: str | None = None) -> None:
        super().__init__(folder)
        self.project, self.entity = project, entity
        self._wandb = import_package("wandb")
        self.errors = (OSError, self._wandb.Error)

    def _open(self, group: tuple[str, ...], key: str, settings: Mapping[str, object]) -> Any:
        run = self._wandb.init(
            project=self.project,
            entity=self.entity,
            dir=str(self.folder),
            id=f"{store_id(self.folder)}-{key}",
            group=self.name,
            name="/".join(group) or self.name,
            config=dict(settings),
            resume="allow",
            reinit="create_new",
            # The screen is the sweep's, and it would record the machine's load for every group anew.
            settings=self._wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )
        for section, step in STEPS.items():
            run.define_metric(f"{section}/*", step_metric=step)
        return run

    def _write(self, run: Any, points: Sequence[Point]) -> None:
        rows: dict[tuple[str, int], dict[str, float]] = {}
        for point in points:
            axis = STEPS[point.name.partition("/")[0]]
            rows.setdefault((axis, point.step), {axis: point.step})[point.name] = point.value
        for row in rows.values():
            run.log(row)

    def _finish(self, run: Any) -> None:
        run.finish()
