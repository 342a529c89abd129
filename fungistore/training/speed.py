"""How fast a training went, and the memory it took; beside the run, and no part of its weights."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from pydantic import TypeAdapter

from fungistore.store.documents import encode_document
from fungistore.training.run_folder import RunFolder

SPEED = "speed.json"
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes that getrusage counts by


@dataclass(frozen=True)
class Speed:
    """What the last process that trained a run to the end of an epoch has measured.

    Attributes:
        device: such as "cpu", or the name of a GPU.
        rows: that were trained on, in training steps, while it was measured.
        seconds: that these steps took, with the reading of their rows.
        peak_rss_bytes: the most memory that the process had, whatever it did before.
        peak_gpu_bytes: the most that torch had allocated on the GPU; None on a CPU.
    """

    device: str
    rows: int
    seconds: float
    peak_rss_bytes: int
    peak_gpu_bytes: int | None

    @property
    def rows_per_second(self) -> float:
        """Training rows a second."""
        return self.rows / max(self.seconds, 1e-9)


class SpeedMeter:
    """Counts rows and seconds of training.

    Args:
        device: that is trained on.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.rows, self._seconds = 0, 0.0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Add the time that the body takes."""
        began = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._seconds += time.perf_counter() - began

    @property
    def rows_per_second(self) -> float:
        """Training rows a second so far."""
        return self.rows / max(self._seconds, 1e-9)

    def write(self, run: RunFolder) -> None:
        """Keep what was measured beside the run; without a step, what an earlier process has."""
        if not self.rows:
            return
        is_gpu = self._device.type == "cuda"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
        name = torch.cuda.get_device_name(self._device) if is_gpu else self._device.type
        on_gpu = torch.cuda.max_memory_allocated(self._device) if is_gpu else None
        speed = Speed(name, self.rows, self._seconds, peak, on_gpu)
        run.folder.publish(SPEED, encode_document(asdict(speed)))


def read_speed(run: RunFolder) -> Speed | None:
    """Return what was measured of a run; None where it is not known, or cannot be read."""
    if not run.folder.has(SPEED):
        return None
    try:
        return TypeAdapter(Speed).validate_json(run.folder.read(SPEED))
    except (OSError, ValueError):
        return None
