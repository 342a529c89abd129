"""Reads chosen rows of a store's array into a buffer, from wherever they are.

Uncompressed chunks are plain arrays in files and are memory-mapped. While rows come from a disk,
those of a batch are announced to the system before they are copied (MADV_WILLNEED): they are read
together then, where a bare map waits for each 128 kB in turn. For rows in the page cache it would
only cost a tenth of the time. `preadv` was measured too: about as good from disk, but slower from
the page cache on a machine with other work.

Mapped rows are not checked against the chunk's CRC-32C, which covers the whole chunk: that would
read hundreds of rows for one. `fungi verify` checks values.
"""

from __future__ import annotations

import mmap
import resource
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fungistore.errors import StoreError
from fungistore.quantities import counted
from fungistore.store.disk_errors import damage_explained
from fungistore.store.samples import Rows
from fungistore.store.units import UnitArray

COLD_PARTS = 256  # of batches whose rows are announced after one that had to wait for a disk
JOBS = 8  # that run at the same time, at most: more than the loader has in flight
MOST_MAPS = 4096  # Linux allows a process 65,530
THREAD_NAME = "fungi-gather"
VERIFY_HINT = "fungi verify STORE --repair drops what is damaged; fungi extract makes it again"

Job = Callable[[], Any]
Values = NDArray[Any]


class RowReader(Protocol):
    """Fills a buffer with rows."""

    def jobs(self, rows: Rows, out: Values) -> Iterable[Job]:
        """Return jobs that together fill out[i] with row rows[i], in any order, in any thread."""


@dataclass(frozen=True)
class Chunk:
    """A mapped chunk: its rows [chunk_rows, ...], the map that they lie in, and from where on."""

    rows: Tensor
    map: mmap.mmap
    start: int

    def announce(self, start: int, count: int, row_bytes: int) -> None:
        """Have the system read some rows, without waiting for them."""
        begin = self.start + start * row_bytes
        first = begin // mmap.PAGESIZE * mmap.PAGESIZE
        self.map.madvise(mmap.MADV_WILLNEED, first, begin + count * row_bytes - first)


class MappedChunks:
    """Rows of an array whose chunks are plain arrays in files.

    Args:
        array: the array, which has a layout of plain chunks.
        parts: jobs that a batch is split into.
        maps: chunks that stay mapped; default: see `default_maps`. As many again can be in use.
    """

    def __init__(self, array: UnitArray, parts: int, maps: int | None = None) -> None:
        assert array.plain is not None
        self._array = array
        self._plain = array.plain
        self._parts = parts
        self._maps = default_maps() if maps is None else maps
        self._cold_parts = COLD_PARTS
        self._lock = threading.Lock()
        self._mapped: OrderedDict[int, Chunk] = OrderedDict()  # latest used last

    def jobs(self, rows: Rows, out: Values) -> Iterator[Job]:
        """Yield jobs that copy a stretch of the batch each."""
        for part in np.array_split(np.arange(len(rows)), min(self._parts, len(rows))):
            here = slice(part[0], part[-1] + 1)
            yield partial(self._fill, rows[here], torch.from_numpy(out[here]))

    def _fill(self, rows: Rows, out: Tensor) -> None:
        stretches = list(runs(rows, self._plain.rows))
        together = max(1, self._maps // JOBS)  # so that all jobs hold no more chunks than are kept
        for part in range(0, len(stretches), together):
            chosen = stretches[part : part + together]
            first, last = chosen[0][0], sum(chosen[-1])
            self._copy(rows[first:last], [count for _, count in chosen], out[first:last])

    def _copy(self, rows: Rows, counts: list[int], out: Tensor) -> None:
        faults = _disk_faults()
        is_cold = self._cold_parts > 0  # threads race for the count, which is no more than a hint
        found: list[Tensor] = []
        index = 0
        for count in counts:
            number, start = divmod(int(rows[index]), self._plain.rows)
            chunk = self._chunk(number)
            if is_cold:
                chunk.announce(start, count, self._plain.row_bytes)
            found.append(chunk.rows[start : start + count])
            index += count
        torch.cat(found, out=out)  # one call: a loop would fight for Python's lock at each row
        if _disk_faults() > faults:
            self._cold_parts = COLD_PARTS
        elif is_cold:
            self._cold_parts -= 1

    def _chunk(self, number: int) -> Chunk:
        with self._lock:
            chunk = self._mapped.get(number)
            if chunk is None:
                chunk = self._mapped[number] = self._map(*divmod(number, self._plain.count))
                if len(self._mapped) > self._maps:
                    self._mapped.popitem(last=False)  # unmapped once no thread copies from it
            else:
                self._mapped.move_to_end(number)
            return chunk

    def _map(self, unit: int, chunk: int) -> Chunk:
        where = self._array.folder.where(self._array.chunk_key(unit))
        with damage_explained("a chunk is missing or damaged", where, VERIFY_HINT):
            mapped = self._plain.map(self._array.chunk_path(unit), chunk)
        return Chunk(torch.from_numpy(mapped.values), mapped.map, mapped.start)


class DecodedChunks:
    """Rows of an array whose chunks have to be decoded whole; each is decoded once.

    Decoded chunks are kept until the last of their rows was copied. The next ones are decoded while
    the current ones are used, one for each that is used up, so at most two windows are in memory.

    Args:
        array: the array.
        upcoming: all rows that will be asked for, in that order.
        window: chunks that the order mixes with each other.
    """

    def __init__(self, array: UnitArray, upcoming: Rows, window: int) -> None:
        self._array = array
        self._lock = threading.Lock()
        self._blocks: dict[int, Future[Values]] = {}
        chunks, first, counts = np.unique(
            upcoming // array.chunk_rows, return_index=True, return_counts=True
        )
        turn = np.argsort(first)
        self._left = dict(zip(chunks.tolist(), counts.tolist(), strict=True))
        self._sequence: list[int] = chunks[turn].tolist()
        self._used_up = np.cumsum(counts[turn])  # rows served when a chunk is through, on average
        self._window = window
        self._served = 0
        self._next = window

    def jobs(self, rows: Rows, out: Values) -> Iterator[Job]:
        """Yield one job for each chunk of the batch, then jobs that decode ahead."""
        chunks = rows // self._array.chunk_rows
        for chunk in dict.fromkeys(chunks.tolist()):
            yield partial(self._copy, chunk, rows, np.flatnonzero(chunks == chunk), out)
        self._served += len(rows)
        while (
            self._next < len(self._sequence)
            and self._used_up[self._next - self._window] <= self._served
        ):
            yield partial(self._prepare, self._sequence[self._next])
            self._next += 1

    def _copy(self, chunk: int, rows: Rows, places: Rows, out: Values) -> None:
        with self._lock:
            block, is_first = self._claim(chunk)
        values = self._settle(chunk, block, is_first)
        out[places] = values[rows[places] - chunk * self._array.chunk_rows]
        with self._lock:
            self._left[chunk] -= len(places)
            if not self._left[chunk]:
                del self._blocks[chunk]

    def _prepare(self, chunk: int) -> None:
        with self._lock:
            if not self._left[chunk]:
                return  # all of its rows were copied before this job had its turn
            block, is_first = self._claim(chunk)
        if is_first:
            self._settle(chunk, block, is_first)

    def _claim(self, chunk: int) -> tuple[Future[Values], bool]:
        is_first = chunk not in self._blocks
        if is_first:
            self._blocks[chunk] = Future()
        return self._blocks[chunk], is_first

    def _settle(self, chunk: int, block: Future[Values], is_first: bool) -> Values:
        if is_first:
            try:
                block.set_result(self._decode(chunk))
            except BaseException as error:
                block.set_exception(error)
        return block.result()

    def _decode(self, chunk: int) -> Values:
        start = chunk * self._array.chunk_rows
        stop = min(start + self._array.chunk_rows, self._array.rows)
        where = f"{self._array.name}, rows {start} to {stop}"
        with damage_explained("a chunk is damaged", where, VERIFY_HINT):
            is_file = self._array.folder.directory() is not None
            # zarr would say that it is NaN; of an object that is an error, and needs no look at it
            if is_file and not self._array.chunk_size(start // self._array.unit_rows):
                raise ValueError("the chunk is empty")
            return self._array.read(start, stop)


class RowsInMemory:
    """Rows that were loaded before.

    Args:
        rows: ascending row numbers [n].
        values: of the rows [n, ...].
        parts: jobs that a batch is split into.
    """

    def __init__(self, rows: Rows, values: Values, parts: int) -> None:
        self.rows = rows
        self._values = values
        self._parts = parts

    def jobs(self, rows: Rows, out: Values) -> Iterator[Job]:
        """Yield jobs that copy a stretch of the batch each."""
        places = np.searchsorted(self.rows, rows)
        for part in np.array_split(np.arange(len(rows)), min(self._parts, len(rows))):
            here = slice(part[0], part[-1] + 1)
            # "clip" writes straight into `out`; the rows were checked when they were drawn
            yield partial(np.take, self._values, places[here], 0, out[here], "clip")


class BatchBuffers:
    """Buffers [count, ...] that are used again once nobody refers to what they held.

    New memory is faulted in page by page, which costs as much as copying a batch does. A buffer
    comes back when the tensor that `take` returned, and every view of it, are gone.

    Args:
        shape: of a full batch.
        dtype: of its values.
        spare: buffers to keep at most.

    Attributes:
        count: rows of a full batch.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], spare: int) -> None:
        self.count = shape[0]
        self._shape = shape
        self._dtype = dtype
        self._spare: deque[Values] = deque(maxlen=spare)

    def take(self, count: int) -> Tensor:
        """Return a buffer for `count` rows, with values of no meaning in it."""
        try:
            whole = self._spare.pop()
        except IndexError:
            whole = np.empty(self._shape, self._dtype)
        part = whole[:count]
        weakref.finalize(part, self._spare.append, whole).atexit = False
        return torch.from_numpy(part)  # holds `part` as long as anything holds its storage


def gather(
    reader: RowReader,
    batches: Iterable[Rows],
    take: Callable[[int], Tensor],
    threads: int,
    ahead: int,
) -> Generator[tuple[Rows, Tensor]]:
    """Yield (rows, values) of each batch in turn, while threads read the next ones.

    Args:
        reader: where the rows come from.
        batches: rows of each batch.
        take: returns a buffer for a number of rows.
        threads: threads that read; none is left when the iterator ends, fails or is closed.
        ahead: batches that are read before they are asked for.

    Raises:
        StoreError: rows cannot be read.
    """
    queue: deque[tuple[Rows, Tensor, list[Future[Any]]]] = deque()
    stream = iter(batches)
    pool = ThreadPoolExecutor(threads, thread_name_prefix=THREAD_NAME)
    try:
        while True:
            while len(queue) <= ahead and (rows := next(stream, None)) is not None:
                values = take(len(rows))
                jobs = reader.jobs(rows, values.numpy())
                queue.append((rows, values, [pool.submit(job) for job in jobs]))
                del values
            if not queue:
                return
            rows, values, futures = queue.popleft()
            for future in futures:
                future.result()
            yield rows, values
            del values  # so that a batch which the caller has dropped makes room for the next
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def require_committed(array: UnitArray, rows: Rows) -> None:
    """Check that rows are there: their unit is committed, and has them.

    Raises:
        StoreError: some are not.
    """
    units, unit = np.unique(rows // array.unit_rows, return_inverse=True)
    commits = array.commits(set(units.tolist())) if len(units) else {}
    made = (commits.get(unit) for unit in units.tolist())
    ends = [one.unit * array.unit_rows + one.rows if one else -1 for one in made]
    absent = (rows < 0) | (rows >= np.array(ends, np.int64)[unit]) if len(rows) else rows
    if absent.any():
        first = int(rows[absent].min())
        raise StoreError(
            f"{int(absent.sum())} of {counted(len(rows), 'row is', 'rows are')} not committed",
            where=f"{array.name}, first of them row {first} in unit {first // array.unit_rows}",
            expected="rows of finished units",
            hint="run the fungi extract command of this store again: it continues",
        )


def runs(rows: Rows, unit_rows: int) -> Iterator[tuple[int, int]]:
    """Yield (index, count) of the stretches of consecutive row numbers, of one unit each.

    Args:
        rows: row numbers [n].
        unit_rows: rows of a unit; a stretch ends with its unit.
    """
    breaks = (np.diff(rows) != 1) | (rows[1:] % unit_rows == 0)
    edges = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(rows)]
    for start, stop in pairwise(edges):
        yield start, stop - start


def _disk_faults() -> int:
    who = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)  # the first is Linux's
    return resource.getrusage(who).ru_majflt


def default_maps() -> int:
    """Return how many chunks may be mapped: each map holds a file descriptor (Python < 3.13)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_MAPS if soft == resource.RLIM_INFINITY else max(1, min(MOST_MAPS, soft // 4))
