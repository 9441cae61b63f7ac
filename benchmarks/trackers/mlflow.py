"""MLflow: a run a group, in a local SQLite file or on a server."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ggl.benchmarks.trackers.base import import_package
from ggl.benchmarks.trackers.content import Point, text_of
from ggl.benchmarks.trackers.grouped import GroupedTracker, store_id

__all__ = ["MLflow"]


class MLflow(GroupedTracker[str]):
    """Writes to an experiment of MLflow, by its client: no run of the user's own is touched.

    Args:
        folder: the store's.
        uri: of a server or a database; None for `folder`/mlflow/mlflow.db.
        experiment: its name; None for the sweep's.
    """

    def __init__(self, folder: Path, uri: str | None = None, *, experiment: str | None = None) -> None:
        super().__init__(folder)
        self.uri, self.experiment = uri, experiment
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a local file asks for no network
        self._mlflow = import_package("mlflow")
        self._entities = import_package("mlflow.entities")
        self.errors = (OSError, self._mlflow.MlflowException)

    def start(self, name: str, settings: Mapping[str, object], total: int) -> None:
        """Open the experiment and the sweep's own run."""
        if self.uri is None:
            (self.folder / "mlflow").mkdir(parents=True, exist_ok=True)
        local = f"sqlite:///{(self.folder / 'mlflow' / 'mlflow.db').resolve()}"
        self._client = self._mlflow.MlflowClient(tracking_uri=self.uri or local)
        wanted = self.experiment or name
        found = self._client.get_experiment_by_name(wanted)
        self._id = found.experiment_id if found else self._client.create_experiment(wanted)
        super().start(name, settings, total)

    def _open(self, group: tuple[str, ...], key: str, settings: Mapping[str, object]) -> str:
        tag = f"{store_id(self.folder)}-{key}"
        found = self._client.search_runs([self._id], f"tags.`ggl.run` = '{tag}'")
        if found:
            earlier: str = found[0].info.run_id
            self._client.update_run(earlier, status="RUNNING")
            return earlier
        tags = {"ggl.run": tag, "ggl.sweep": self.name}
        run = self._client.create_run(self._id, run_name="/".join(group) or self.name, tags=tags)
        run_id: str = run.info.run_id
        params = [self._entities.Param(name, text_of(value)) for name, value in settings.items()]
        self._client.log_batch(run_id, params=params)
        return run_id

    def _write(self, run: str, points: Sequence[Point]) -> None:
        now = int(1000 * time.time())
        metrics = [self._entities.Metric(point.name, point.value, now, point.step) for point in points]
        self._client.log_batch(run, metrics=metrics)

    def _finish(self, run: str) -> None:
        self._client.set_terminated(run)
