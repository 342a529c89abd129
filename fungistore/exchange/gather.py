"""Rows of imported files in the order of the store, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fungistore.errors import UsageError
from fungistore.exchange.formats import FeatureFile, Matrix, row_bytes, rows_at_once
from fungistore.exchange.npy import take_rows
from fungistore.machine.context import Context

LONGEST_SPAN = 4  # units' worth of a file that are read at once to get one unit out of them


class Concatenated:
    """Files with rows of one shape, which follow each other.

    Raises:
        UsageError: the shapes differ.
    """

    def __init__(self, files: Sequence[FeatureFile]) -> None:
        self.files = files
        self.row_shape = files[0].row_shape
        self._starts = np.concatenate([[0], np.cumsum([file.rows for file in files])])
        self.rows = int(self._starts[-1])
        self.dtype = max((file.dtype for file in files), key=lambda dtype: dtype.itemsize)
        for file in files:
            if file.row_shape != self.row_shape:
                one, other = (" x ".join(map(str, s)) for s in (self.row_shape, file.row_shape))
                raise UsageError(
                    "the files' rows are not of the same shape",
                    where=file.path,
                    expected=f"{one}, as in {files[0].path}",
                    found=other,
                    hint="import files of one model and one image size; sequences of different "
                    "lengths have no place in one array",
                )

    def content(self) -> list[str]:
        """Return the digest of each file."""
        return [file.content() for file in self.files]

    def read(self, start: int, stop: int) -> Matrix:
        """Return rows [start, stop)."""
        parts = []
        for file, first in zip(self.files, self._starts.tolist(), strict=False):
            low, high = max(start, first) - first, min(stop, first + file.rows) - first
            if low < high:
                parts.append(file.read(low, high))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def take(self, rows: NDArray[np.int64]) -> Matrix:
        """Return some rows, in the order asked for."""
        taken = np.empty((len(rows), *self.row_shape), self.dtype)
        for file, first in zip(self.files, self._starts.tolist(), strict=False):
            mine = (rows >= first) & (rows < first + file.rows)
            if mine.any():
                taken[mine] = file.take(rows[mine] - first)
        return taken

    def blocks(self, context: Context) -> Iterator[Matrix]:
        """Yield all rows in order."""
        step = rows_at_once(row_bytes(self.row_shape, self.dtype))
        for start in range(0, self.rows, step):
            context.stop_if_asked()
            yield self.read(start, min(start + step, self.rows))


Take = Callable[[NDArray[np.int64]], Matrix]


@contextmanager
def gathering(
    vectors: Concatenated,
    wanted: NDArray[np.int64],
    unit_rows: int,
    scratch: AbstractContextManager[Path],
    context: Context,
) -> Iterator[Take]:
    """Yield a function that returns the vectors of some samples, NaN for those without.

    Files that can only be read forward, with rows far from the store's order, are first copied to
    a plain matrix.

    Args:
        vectors: the files.
        wanted: the files' row of each sample, -1 where there is none.
        unit_rows: how many samples are asked for at a time.
        scratch: a file for the copy, which needs the size of the vectors.
        context: its reporter is told what happens, its stop asked while it is made.
    """
    is_scattered = _longest_span(wanted, unit_rows) > LONGEST_SPAN * unit_rows
    is_copied = is_scattered and not all(file.is_random_access for file in vectors.files)
    with scratch as copy:
        if is_copied:
            context.reporter.notice(
                "the rows are in another order: copying them to a scratch file first"
            )
            with copy.open("wb") as file:
                for block in vectors.blocks(context):
                    file.write(np.ascontiguousarray(block, vectors.dtype).data)

        def gather(rows: NDArray[np.int64]) -> Matrix:
            found = np.full((len(rows), *vectors.row_shape), np.nan, vectors.dtype)
            is_there = rows >= 0
            present = rows[is_there]
            low, high = int(present.min()), int(present.max()) + 1
            if high - low <= LONGEST_SPAN * unit_rows:
                found[is_there] = vectors.read(low, high)[present - low]
            elif is_copied:
                found[is_there] = take_rows(copy, 0, vectors.row_shape, vectors.dtype, present)
            else:
                found[is_there] = vectors.take(present)
            return found

        yield gather


def _longest_span(wanted: NDArray[np.int64], unit_rows: int) -> int:
    spans = [0]
    for start in range(0, len(wanted), unit_rows):
        rows = wanted[start : start + unit_rows]
        rows = rows[rows >= 0]
        if len(rows):
            spans.append(int(rows.max() - rows.min()) + 1)
    return max(spans)
