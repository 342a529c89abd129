"""Matrix products whose last bits depend on no number of threads.

A BLAS divides a product among its threads, and where it cuts changes how the terms of a sum are
added up. What workers with fewer cores each make is to be what one process makes, bit for bit: so
a product is cut into the same tiles everywhere, and each is the work of one thread.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

TILE_ROWS = 512
TILE_COLUMNS = 128
SMALL = 1 << 18  # multiplications that no BLAS divides

Number = TypeVar("Number", np.float32, np.float64)
Tile = TypeVar("Tile")


def product(left: NDArray[Number], right: NDArray[Number]) -> NDArray[Number]:
    """Return left [n, d] times right [d, k].

    Tiles begin with the first row: those of some rows of `left` are found as they would be among
    all, where the first of them begins a tile.
    """
    (rows, width), columns = left.shape, right.shape[1]
    found = np.empty((rows, columns), left.dtype)
    tiles = [(i, j) for i in steps(rows, TILE_ROWS) for j in steps(columns, TILE_COLUMNS)]

    def fill(tile: tuple[slice, slice]) -> None:
        i, j = tile
        np.matmul(left[i], right[:, j], out=found[tile])

    if rows * width * columns <= SMALL:
        for tile in tiles:
            fill(tile)
    else:
        of_one_thread_each(fill, tiles)
    return found


def gram(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the products [d, d] of the columns of rows [n, d] with each other."""
    width = rows.shape[1]
    found = np.empty((width, width))
    tiles = [
        (slice(i.start, min(i.stop, j.stop)), j)
        for j in steps(width, TILE_COLUMNS)
        for i in steps(j.stop, TILE_ROWS)
    ]

    def fill(tile: tuple[slice, slice]) -> None:
        i, j = tile
        above = np.matmul(rows[:, i].T, rows[:, j])
        found[i, j] = above
        found[j, i] = above.T

    of_one_thread_each(fill, tiles)
    return found


def steps(count: int, step: int) -> list[slice]:
    """Return the tiles of so many rows, all but the last of one size."""
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def of_one_thread_each(
    fill: Callable[[Tile], None], tiles: Sequence[Tile], begin: Callable[[], None] | None = None
) -> None:
    """Do all tiles, several at once, and each in one thread.

    Args:
        fill: does a tile.
        tiles: that there are.
        begin: called in each thread before its first tile.
    """
    with (
        _blas().of_one_thread() as threads,
        ThreadPoolExecutor(threads, "fungi-tiles", begin) as pool,
    ):
        for _ in pool.map(fill, tiles):
            pass


class _Blas:
    """NumPy's BLAS, and others', whose number of threads is one for the whole process."""

    def __init__(self) -> None:
        self._libraries: Any = None
        self._modules = 0  # libraries come with these: faiss has a BLAS of its own
        self._lock = Lock()
        self._inside = 0
        self._limit: Any = None
        self._threads = 1

    @contextmanager
    def of_one_thread(self) -> Iterator[int]:
        """Let every product be one thread's; yields how many threads it had of its own."""
        with self._lock:
            if not self._inside:
                self._look_again()
                found = self._libraries.info()
                self._threads = max((one["num_threads"] for one in found), default=1)
                self._limit = self._libraries.limit(limits=1)
            self._inside += 1
            threads = self._threads
        try:
            yield threads
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._limit.restore_original_limits()

    def _look_again(self) -> None:
        if self._modules != (count := len(sys.modules)):
            self._libraries = ThreadpoolController().select(user_api="blas")
            self._modules = count


@cache
def _blas() -> _Blas:
    return _Blas()
