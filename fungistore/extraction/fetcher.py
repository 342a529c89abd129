"""Items at URLs, fetched so far ahead of the model that the way there and back is not waited for.

Requests are many at once, and members of a shard that lie side by side share one. Decoding
processes get the bytes: none of them talks to a server.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any

from fungistore.extraction.drawing import FETCHED
from fungistore.extraction.plan import BatchPlan
from fungistore.location import Location, locate
from fungistore.modalities.fetching import fetch_together, group
from fungistore.remote.urls import is_url

REQUESTS = 64  # under way at once: at 20 ms each, 3,200 a second
ROWS_AHEAD = 1024  # whose items are held, or on their way
BYTES_AHEAD = 1 << 28
Row = Mapping[str, Any]
Place = tuple[Future[list[bytes | Exception]], int]


@dataclass(frozen=True)
class FetchedRows:
    """Rows, and where the bytes of each will be; None of those that are on a disk."""

    rows: list[Row]
    places: list[Place | None]

    def there(self) -> list[Row]:
        """Return the rows with their bytes, once they are there.

        Raises:
            UnreachableError: the server is.
        """
        pairs = zip(self.rows, self.places, strict=True)
        return [
            row if place is None else {**row, FETCHED: place[0].result()[place[1]]}
            for row, place in pairs
        ]


@dataclass(frozen=True)
class FetchedPlan:
    """A batch to be, whose items are on their way.

    Attributes:
        plan: the batch.
        places: where the bytes of each row will be.
        bytes: of its items, as far as the source has told.
        untold: rows of which it has not.
    """

    plan: BatchPlan
    places: list[Place | None]
    bytes: int
    untold: int = 0

    def parts(self, size: int) -> list[FetchedRows]:
        """Return its rows, so many at once."""
        rows, places = self.plan.rows, self.places
        starts = range(0, len(rows), size)
        return [FetchedRows([*rows[s : s + size]], places[s : s + size]) for s in starts]


class Fetcher:
    """Fetches the items of batches; no thread is started before there is one at a URL."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._seen = _Sizes()

    def ahead(self, plans: Iterable[BatchPlan]) -> Iterator[FetchedPlan]:
        """Yield batches in their order, those behind them being fetched meanwhile."""
        waiting: deque[FetchedPlan] = deque()
        for plan in plans:
            waiting.append(self._started(plan))
            while waiting and not self._may_go_on(waiting):
                yield waiting.popleft()
        yield from waiting

    def _may_go_on(self, waiting: Iterable[FetchedPlan]) -> bool:
        """Whether more is to be fetched before a batch is asked for; of a disk nothing is."""
        if self._pool is None:
            return False
        rows = sum(len(one.places) for one in waiting)
        untold = sum(one.untold for one in waiting)
        if rows >= ROWS_AHEAD or (untold and self._seen.mean is None):
            return False
        told = sum(one.bytes for one in waiting)
        return told + untold * (self._seen.mean or 0) < BYTES_AHEAD

    def _started(self, plan: BatchPlan) -> FetchedPlan:
        located = [_of_url(row) for row in plan.rows]
        places: list[Place | None] = [None] * len(located)
        size = untold = 0
        for numbers in group(located):
            found = [one for number in numbers if (one := located[number]) is not None]
            self._pool = self._pool or ThreadPoolExecutor(REQUESTS, "fungi-fetch")
            answer = self._pool.submit(fetch_together, found)
            told = [plan.rows[number].get("bytes") for number in numbers]
            if found[0].is_whole:
                told = told[:1]  # spans of one object share its bytes
            if not all(told):
                answer.add_done_callback(self._seen.note)
            size += sum(filter(None, told))
            untold += sum(not one for one in told)
            for at, number in enumerate(numbers):
                places[number] = (answer, at)
        return FetchedPlan(plan, places, size, untold)

    def close(self) -> None:
        """Ask for nothing more."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


class _Sizes:
    """How many bytes those items have whose source does not tell, such as rows of Parquet."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._count = self._bytes = 0
        self.mean: float | None = None

    def note(self, answer: Future[list[bytes | Exception]]) -> None:
        """Take what has arrived into account."""
        if answer.cancelled() or answer.exception() is not None:
            return
        found = [len(one) if isinstance(one, bytes) else 0 for one in answer.result()]
        with self._lock:
            self._count += len(found)
            self._bytes += sum(found)
            self.mean = self._bytes / self._count


def _of_url(row: Row) -> Location | None:
    """Return where the item of a row is; None of one that needs no request."""
    if "item" in row or not (is_url(row["root"]) or "://" in row["uri"]):
        return None
    place = locate(row["root"], row["uri"])
    return place if place.flaw is None and is_url(place.path) else None
