"""Units that are made faster than a disk flushes are published several at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from fungistore.errors import StoppedError
from fungistore.store.commit import Commit, NewUnit
from fungistore.store.units import UnitArray

MOST_UNITS = 256
MOST_BYTES = 64_000_000  # of chunks that wait in memory
MOST_WORKERS = 32  # that commit units one by one, and may all be killed at once
MOST_SECONDS = 0.5  # of work that a kill may cost: about what flushing one unit takes a slow disk


def most_unrecorded(array: UnitArray) -> int:
    """Return how many chunks of an array kills may leave without a record, at the most."""
    batch = -(-MOST_BYTES // _unit_bytes(array))
    return min(MOST_UNITS, max(MOST_WORKERS, batch))


def _unit_bytes(array: UnitArray) -> int:
    """Return the bytes of a chunk, filled up."""
    return array.unit_rows * array.feature.row_bytes


class UnitBatch:
    """Publishes the units of one array; use it as a context, for loops of short equal steps.

    A unit waits for others that come within half a second of the first, and is committed with them
    by few flushes. One that took longer is committed at once, so a slow loop commits every unit.
    The end of the context commits what waits, also where a signal has asked the loop to stop.

    Args:
        array: the units' array.
        done: told each commit, in turn.
    """

    def __init__(self, array: UnitArray, done: Callable[[Commit], None]) -> None:
        self._array = array
        self._done = done
        self._waiting: list[NewUnit] = []
        self._bytes = 0
        self._unit_bytes = _unit_bytes(array)
        self._flushed = time.monotonic()

    def add(
        self,
        unit: int,
        block: NDArray[Any],
        ids: str,
        failed: int,
        before: Commit | None = None,
        inputs: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Publish a unit, now or soon; see `NewUnit`."""
        self._waiting.append(NewUnit(unit, block, ids, failed, before, inputs))
        self._bytes += self._unit_bytes
        is_late = time.monotonic() - self._flushed > MOST_SECONDS
        if is_late or len(self._waiting) >= MOST_UNITS or self._bytes >= MOST_BYTES:
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        try:
            self._publish(waiting)
        except OSError:  # such as of a full disk, which may have room for some of them
            for new in waiting:
                self._publish([new])
        self._flushed = time.monotonic()

    def _publish(self, units: Sequence[NewUnit]) -> None:
        for commit in self._array.publish_all(units):
            self._done(commit)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._waiting and (kind is None or issubclass(kind, StoppedError)):
            self._flush()
