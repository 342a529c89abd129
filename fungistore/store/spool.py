"""Rows that come in any order and are wanted in that of the table, kept on the disk meanwhile."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

WINDOW_ROWS = 262_144  # of the table that are looked at together


class Spool:
    """Record batches with a column `row`, in a temporary file that nobody else sees.

    Eight bytes a row stay in memory. A context; its end removes the file.

    Args:
        schema: of the batches, which has no dictionaries.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self._held = ExitStack()
        self._writer: pa.RecordBatchFileWriter | None = None
        self._numbers: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def append(self, batch: pa.RecordBatch) -> None:
        """Keep a batch."""
        if not len(batch):
            return
        if self._writer is None:
            file = tempfile.TemporaryFile()  # noqa: SIM115  # the context that it is held in
            self._file = self._held.enter_context(file)
            sink = pa.PythonFile(self._file, "w")
            self._writer = self._held.enter_context(pa.ipc.new_file(sink, self.schema))
        self._writer.write_batch(batch)
        self._numbers.append(batch["row"].to_numpy())

    def rows(self) -> NDArray[np.int64]:
        """Return the numbers of all rows, in the order of the table."""
        return np.sort(np.concatenate(self._numbers))

    def values(self, name: str, rows: NDArray[np.int64]) -> Iterator[Any]:
        """Yield what a column says of some rows, ascending."""
        for window in self._windows():
            chosen = np.isin(window["row"].to_numpy(), rows)
            yield from window[name].filter(pa.array(chosen)).to_pylist()

    def stretches(self, *stops: int) -> Iterator[pa.Table]:
        """Yield the rows below each stop that are not below the one before it, in their order.

        Args:
            stops: numbers of rows, ascending.
        """
        windows = self._windows()
        rest = self.schema.empty_table()
        for stop in stops:
            found = []
            while rest is not None:
                cut = int(np.searchsorted(rest["row"].to_numpy(), stop))
                found.append(rest.slice(0, cut))
                rest = rest.slice(cut)
                if len(rest):
                    break
                rest = next(windows, None)
            yield pa.concat_tables(found) if found else self.schema.empty_table()

    def _windows(self) -> Iterator[pa.Table]:
        if self._writer is None:
            return
        self._writer.close()
        self._file.flush()
        rows = np.concatenate(self._numbers)
        mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        reader = pa.ipc.open_file(pa.py_buffer(mapped))
        firsts = np.cumsum([0, *map(len, self._numbers[1:])])
        order = np.argsort(rows, kind="stable")
        windows = rows[order] // WINDOW_ROWS
        for places in np.split(order, np.flatnonzero(np.diff(windows)) + 1):
            yield _taken(reader, firsts, places)


def _taken(
    reader: pa.RecordBatchFileReader, firsts: NDArray[np.int64], places: NDArray[np.int64]
) -> pa.Table:
    """Return rows by their place in all batches, in the order of `places`."""
    sought = np.sort(places)
    number = np.searchsorted(firsts, sought, "right") - 1
    found = [
        reader.get_batch(int(number[own[0]])).take(pa.array(sought[own] - firsts[number[own[0]]]))
        for own in np.split(np.arange(len(sought)), np.flatnonzero(np.diff(number)) + 1)
    ]
    whole = pa.Table.from_batches(found).combine_chunks()
    return whole.take(pa.array(np.searchsorted(sought, places)))
