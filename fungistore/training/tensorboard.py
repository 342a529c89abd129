"""Scalars for TensorBoard, in the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import ClassVar

from fungistore.training.run_loggers import LoggedRun

EVENTS = "tensorboard"


class TensorBoard:
    """Writes events below the directory of a run: `tensorboard --logdir STORE/heads` shows all."""

    package: ClassVar[str] = "tensorboard"
    extra: ClassVar[str] = "tensorboard"
    needs_directory: ClassVar[bool] = True
    is_live = True

    def __init__(self, run: LoggedRun) -> None:
        from torch.utils.tensorboard import FileWriter

        assert run.directory is not None  # `refuse_unusable` has looked
        self._directory = str(run.directory / EVENTS)
        self._last = self._stored()
        self._writer = FileWriter(self._directory)

    def last_epoch(self) -> int:
        """Return what the events of earlier runs end with."""
        return self._last

    def _stored(self) -> int:
        if not Path(self._directory).is_dir():
            return 0
        events = import_module("tensorboard.backend.event_processing.event_accumulator")
        found = events.EventAccumulator(self._directory, size_guidance={"scalars": 0})
        found.Reload()
        tags = found.Tags()["scalars"]
        return max((event.step for tag in tags for event in found.Scalars(tag)), default=0)

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        """Write the values of an epoch to the disk, as one record, which no kill divides."""
        kind = import_module("tensorboard.compat.proto.summary_pb2").Summary
        told = [kind.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._writer.add_summary(kind(value=told), epoch)
        self._writer.flush()

    def close(self, *, done: bool) -> None:
        """End the file of events."""
        self._writer.close()
