"""Objects that are read one after the other: the next ones are fetched before they are asked for.

A round trip to a server takes longer than most of what is done with a chunk. Who lists the chunks
of an array says in which order they follow each other; reading two neighbours, or the first, is
taken for the beginning of a pass. How many bytes wait to be asked for is bounded for each array.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from fungistore.remote.forked import refuse_fork

AHEAD_BYTES = 64_000_000  # of an array, fetched before they are asked for; one object at least
AHEAD = 64  # objects of an array: 20 ms of latency cost 0.3 ms an object then
THREADS = 16
KEPT_BEHIND = 16  # several are asked for at once, in any order


class ReadAhead:
    """Reads objects, those of known sequences ahead of time; for any threads.

    Args:
        read: returns an object's bytes.
    """

    def __init__(self, read: Callable[[str], bytes]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._sequences: dict[str, _Sequence] = {}  # by the folder of the keys
        self._pool: ThreadPoolExecutor | None = None

    def follow(self, folder: str, sizes: Mapping[str, int]) -> None:
        """Take the objects of a folder for a sequence: their bytes by key, in the order of use."""
        with self._lock:
            self._sequences[folder] = _Sequence(sizes)

    def forget(self, key: str) -> None:
        """Drop what was fetched of an object ahead of time, since it changes."""
        with self._lock:
            for sequence in self._sequences.values():
                sequence.drop(key)

    def get(self, key: str) -> bytes:
        """Return an object's bytes."""
        refuse_fork()  # what is being fetched never arrives in it
        with self._lock:
            sequence = next((one for one in self._sequences.values() if key in one.places), None)
            if sequence is None:
                future = None
            else:
                future = sequence.take(key)
                for other in sequence.due(key):
                    sequence.waiting[other] = self._threads().submit(self._read, other)
        if future is None:
            return self._read(key)
        try:
            return future.result()
        except OSError:  # it was fetched some time ago; now it is asked for
            return self._read(key)

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, "fungi-ahead")
        return self._pool


class _Sequence:
    """Objects in the order of use, and those of them that are being fetched."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.keys = list(sizes)
        self.sizes = list(sizes.values())
        self.places = {key: place for place, key in enumerate(self.keys)}
        self.waiting: dict[str, Future[bytes]] = {}
        self._expected = {0}  # whose reading is that of a pass

    def take(self, key: str) -> Future[bytes] | None:
        return self.waiting.pop(key, None)

    def drop(self, key: str) -> None:
        future = self.waiting.pop(key, None)
        if future is not None:
            future.cancel()

    def due(self, key: str) -> list[str]:
        """Return what to begin fetching when an object is asked for; what is far off is dropped."""
        place = self.places[key]
        is_pass = place in self._expected
        self._expected = {0, place + 1} if not is_pass else {*self._expected, place + 1}
        if len(self._expected) > 4 * AHEAD:
            self._expected = {0, *range(place - AHEAD, place + AHEAD)}
        if not is_pass:
            return []
        for other in list(self.waiting):
            if not place - KEPT_BEHIND <= self.places[other] <= place + AHEAD:
                self.drop(other)
        found: list[str] = []
        total = sum(self.sizes[self.places[other]] for other in self.waiting)
        for after in range(place + 1, min(place + 1 + AHEAD, len(self.keys))):
            if self.keys[after] in self.waiting:
                continue
            total += self.sizes[after]
            if total > AHEAD_BYTES and (found or self.waiting):
                break
            found.append(self.keys[after])
            if len(found) + len(self.waiting) >= AHEAD:
                break
        return found
