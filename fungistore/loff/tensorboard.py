"""Scalars for TensorBoard, where it is installed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path


class Scalars:
    """Writes events below a run's directory; does nothing where TensorBoard is not installed.

    Args:
        directory: of the run; None where it has none, as in an object store: no events there.
    """

    def __init__(self, directory: Path | None) -> None:
        self._writer = None
        if directory is not None and find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(directory / "tensorboard"))

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        """Write the values of an epoch."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, epoch)

    def close(self) -> None:
        """Flush what was written."""
        if self._writer is not None:
            self._writer.close()
