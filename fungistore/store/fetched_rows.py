"""Rows of plain chunks in an object store: fetched by range, through the local cache.

A chunk of which most rows are wanted is fetched whole when the first of them is, if there is a
cache with room for all that is wanted: that takes one request instead of one for each stretch.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from fungistore.errors import StoreError
from fungistore.remote.cache_options import object_cache
from fungistore.store.disk_errors import damage_explained
from fungistore.store.gather import VERIFY_HINT, Job, MappedChunks, RowReader, Values, runs
from fungistore.store.samples import Rows
from fungistore.store.units import UnitArray

MOST_OF_A_CHUNK = 0.5  # of its rows: fetching the others, too, costs less than more requests
PART_OF_CACHE = 0.8  # that whole chunks may fill, or they would push each other out
CHUNKS_AT_ONCE = 16


class FetchedRows:
    """Rows of an array whose chunks are plain arrays, and no files of this machine.

    Args:
        array: the array.
        wanted: all rows that will be asked for, in any order; default: unknown.
    """

    def __init__(self, array: UnitArray, wanted: Rows | None = None) -> None:
        assert array.plain is not None
        self._array = array
        self._plain = array.plain
        self._lock = threading.Lock()
        self._whole: dict[int, threading.Lock] = {}  # chunks that are fetched whole, once
        self._done: set[int] = set()
        if wanted is not None and len(wanted):
            size = self._plain.rows
            chunks, counts = np.unique(np.unique(wanted) // size, return_counts=True)
            many = chunks[counts >= MOST_OF_A_CHUNK * size].tolist()
            cache = object_cache()
            if cache and len(many) * self._plain.chunk_bytes <= PART_OF_CACHE * cache.most_bytes:
                self._whole = {chunk: threading.Lock() for chunk in many}

    def jobs(self, rows: Rows, out: Values) -> Iterator[Job]:
        """Yield one job, which asks for the rows of many chunks at once."""
        if len(rows):
            yield partial(self._fill, rows, out)

    def _fill(self, rows: Rows, out: Values) -> None:
        chunks = rows // self._plain.rows
        order = np.argsort(rows, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(chunks[order])) + 1)
        jobs = [partial(self._copy, int(chunks[part[0]]), rows, part, out) for part in parts]
        if len(jobs) == 1:
            jobs[0]()
            return
        with ThreadPoolExecutor(min(CHUNKS_AT_ONCE, len(jobs)), "fungi-rows") as pool:
            for future in [pool.submit(job) for job in jobs]:
                future.result()

    def _copy(self, chunk: int, rows: Rows, places: Rows, out: Values) -> None:
        """Fetch rows of one chunk, given by ascending `places` in the batch."""
        array, plain = self._array, self._plain
        unit = chunk // plain.count
        wanted, again = np.unique(rows[places] - unit * array.unit_rows, return_inverse=True)
        stretches = [(int(wanted[i]), count) for i, count in runs(wanted, plain.rows)]
        name = array.chunk_key(unit)
        key, where = array.folder.key_of(name), array.folder.where(name)
        with damage_explained("a chunk is missing or damaged", where, VERIFY_HINT):
            pieces = self._read(chunk, key, stretches)
        data = np.frombuffer(b"".join(pieces), plain.dtype)
        if data.nbytes != len(wanted) * plain.row_bytes:
            raise StoreError("a chunk is too short", where=where, hint=VERIFY_HINT)
        out[places] = data.reshape(len(wanted), *plain.row_shape)[again]

    def _read(self, chunk: int, key: str, stretches: list[tuple[int, int]]) -> list[bytes]:
        backend, plain = self._array.folder.backend, self._plain
        if chunk in self._whole and chunk not in self._done:
            with self._whole[chunk]:
                if chunk not in self._done:
                    start = plain.chunk_bytes * (chunk % plain.count)
                    backend.ranges(key, [start], [plain.chunk_bytes])  # it is in the cache now
                    self._done.add(chunk)
        starts = [plain.offset(first) for first, _ in stretches]
        sizes = [count * plain.row_bytes for _, count in stretches]
        return list(backend.ranges(key, starts, sizes))


def plain_rows(array: UnitArray, parts: int, wanted: Rows | None = None) -> RowReader:
    """Return what reads rows of plain chunks: maps of files, or requests where there are none.

    Args:
        array: the array.
        parts: jobs that a batch is split into.
        wanted: all rows that will be asked for; default: unknown.
    """
    if array.folder.directory() is None:
        return FetchedRows(array, wanted)
    return MappedChunks(array, parts)
