"""TensorBoard: event files in the store's folder."""

import os
import socket
import time
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ggl.benchmarks.trackers.base import import_package
from ggl.benchmarks.trackers.content import Point, text_of
from ggl.benchmarks.trackers.grouped import GroupedTracker

__all__ = ["TensorBoard"]

LONGEST = 150
"""Characters of a folder's name; file systems take 255 bytes."""


class TensorBoard(GroupedTracker[Path]):
    """Writes event files to `folder`/tensorboard, one a group and run of the sweep.

    Torch's `SummaryWriter` holds a thread and an open file for every group, and meets a full disk in
    that thread. Here each record is appended whole and the file is closed again: an error is raised
    where it happens, a kill loses nothing, and a sweep may have any number of groups.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import_package("tensorboard")
        self._summaries = import_package("torch.utils.tensorboard.summary")
        self._events = import_package("tensorboard.compat.proto.event_pb2")
        self._records = import_package("tensorboard.summary.writer.record_writer")
        # A file of this run's own: nothing is appended behind a record that an earlier run left half.
        self._file = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"

    def _open(self, group: tuple[str, ...], key: str, settings: Mapping[str, object]) -> Path:
        parts = [_folder_name(part, key) for part in (self.name, *group)]
        path = self.folder.joinpath("tensorboard", *parts)
        path.mkdir(parents=True, exist_ok=True)
        rows = "".join(f"| {name} | {text_of(value)} |\n" for name, value in settings.items())
        text = self._summaries.text("settings", f"| setting | value |\n|---|---|\n{rows}")
        shown = self._summaries.hparams(dict(settings), {})[:2] if group else ()
        events = [self._event(summary=summary) for summary in (text, *shown)]
        self._append(path / self._file, [self._event(file_version="brain.Event:2"), *events])
        return path / self._file

    def _write(self, run: Path, points: Sequence[Point]) -> None:
        summaries = [(point.step, self._summaries.scalar(point.name, point.value)) for point in points]
        self._append(run, [self._event(step=step, summary=summary) for step, summary in summaries])

    def _finish(self, run: Path) -> None:
        """Nothing is open."""

    def _event(self, step: int = 0, summary: Any = None, file_version: str | None = None) -> Any:
        return self._events.Event(
            wall_time=time.time(), step=step, summary=summary, file_version=file_version
        )

    def _append(self, path: Path, events: Sequence[Any]) -> None:
        content = BytesIO()
        writer = self._records.RecordWriter(content)
        for event in events:
            writer.write(event.SerializeToString())
        with path.open("ab") as file:
            file.write(content.getvalue())


def _folder_name(part: str, key: str) -> str:
    name = quote(part, safe=" :,=+@")
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}-{key}"
