"""Where the time goes: seconds by stage, for `fungi extract --profile` and the benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from math import inf
from threading import Lock
from typing import Any, Literal, Protocol, runtime_checkable

Stage = Literal["decode", "draw", "wait", "views", "trunk", "tail", "projection", "fetch", "write"]

MEANINGS: dict[Stage, str] = {
    "decode": "read and decode images (threads or processes)",
    "draw": "cut and resize images (threads or processes)",
    "wait": "wait for images, or for the writer",
    "views": "make views of what was drawn",
    "trunk": "forwards up to the target layer",
    "tail": "the rest of the forwards, losses, gradients",
    "projection": "project gradients",
    "fetch": "bring features to the host",
    "write": "write and commit units (thread)",
}
BESIDE: frozenset[Stage] = frozenset({"decode", "draw", "write"})  # in threads of their own


@runtime_checkable
class Stopwatch(Protocol):
    """Is told when a stage begins and ends."""

    def stage(self, name: Stage, part: float = 1.0) -> AbstractContextManager[Any]:
        """Return a context that lasts as long as one run of the stage; any thread may enter it.

        It is charged with `part` of its duration: an nth, where n threads run it side by side.
        """

    def add(self, name: Stage, seconds: float) -> None:
        """Charge a stage with what was measured elsewhere."""


class Unwatched:
    """A stopwatch that does not run."""

    def stage(self, name: Stage, part: float = 1.0) -> AbstractContextManager[Any]:
        """Do nothing."""
        return nullcontext()

    def add(self, name: Stage, seconds: float) -> None:
        """Do nothing."""


UNWATCHED = Unwatched()


@dataclass(frozen=True)
class _Shared:
    """A stopwatch of stages that run side by side in several threads: each counts for its part."""

    watch: Stopwatch
    threads: int

    def stage(self, name: Stage, part: float = 1.0) -> AbstractContextManager[Any]:
        return self.watch.stage(name, part / self.threads)

    def add(self, name: Stage, seconds: float) -> None:
        self.watch.add(name, seconds / self.threads)


def shared(watch: Stopwatch, threads: int) -> Stopwatch:
    """Return a stopwatch for work that is spread over threads, which adds up to elapsed time."""
    return watch if threads == 1 else _Shared(watch, threads)


@dataclass(frozen=True)
class StageTime:
    """Seconds of one stage, summed over threads, and as a share of the elapsed time."""

    stage: Stage
    seconds: float
    share: float
    beside: bool

    @property
    def meaning(self) -> str:
        """What is done in the stage."""
        return MEANINGS[self.stage]


class Clock:
    """A stopwatch that runs.

    Args:
        synchronize: waits for the device's work, so that a stage is charged for what it queued.
    """

    def __init__(self, synchronize: Callable[[], None] = lambda: None) -> None:
        self._synchronize = synchronize
        self._seconds = dict.fromkeys(MEANINGS, 0.0)
        self._lock = Lock()
        self._first = inf
        self._last = 0.0

    @contextmanager
    def stage(self, name: Stage, part: float = 1.0) -> Iterator[None]:
        """Add a part of the context's duration to the stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            if name not in BESIDE:
                self._synchronize()
            ended = time.perf_counter()
            with self._lock:
                self._seconds[name] += part * (ended - began)
                self._first, self._last = min(self._first, began), max(self._last, ended)

    def add(self, name: Stage, seconds: float) -> None:
        """Add seconds to the stage."""
        with self._lock:
            self._seconds[name] += seconds

    def times(self) -> list[StageTime]:
        """Return each stage, in the order of an item's way; shares are of first to last."""
        with self._lock:
            elapsed = max(self._last - self._first, 0.0)
            return [
                StageTime(name, seconds, seconds / elapsed if elapsed else 0.0, name in BESIDE)
                for name, seconds in self._seconds.items()
            ]
