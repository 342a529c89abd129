"""Containers of text tables: cells that are too long for a store's own table, found by their row.

Rows have no places of their own in such files, so they are read from the beginning, once while
neighbouring rows are asked for side by side.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import pyarrow as pa

from fungistore.errors import ItemError
from fungistore.remote.files import local_copy
from fungistore.sources.rows import Columns, open_columns
from fungistore.sources.text_lines import TextLines

BATCHES_KEPT = 2


class TableCells:
    """Single cells of a table: `column,row`, the row counted from the first below the header."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._start("")

    def _start(self, column: str) -> None:
        self._column, self._next = column, 0
        self._kept: deque[tuple[int, pa.Array]] = deque(maxlen=BATCHES_KEPT)
        self._ahead: Iterator[pa.RecordBatch] = iter(())
        if column:
            self._ahead = self._columns.batches({column: pa.binary()})

    def read(self, key: str) -> bytes:
        """Return the bytes of one cell."""
        column, _, number = key.rpartition(",")
        row = int(number)
        if column != self._column or row < (self._kept[0][0] if self._kept else self._next):
            self._start(column)
        while row >= self._next:
            batch = next(self._ahead, None)
            if batch is None:
                raise ItemError(f"the table has no row {row}: it has {self._next}")
            self._kept.append((self._next, batch.column(0)))
            self._next += len(batch)
        first, cells = next(one for one in reversed(self._kept) if one[0] <= row)
        content: bytes = cells[row - first].as_py() or b""
        return content

    def close(self) -> None:
        """Let the file go."""
        self._start("")


def open_table(path: str) -> TableCells:
    """Open a table whose name tells its format."""
    return TableCells(open_columns(path, has_items=True))


def open_lines(path: str) -> TableCells:
    """Open a file of lines, whatever their column is called."""
    return TableCells(TextLines(str(local_copy(path)), ""))
