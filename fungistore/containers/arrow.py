"""Rows of Parquet files and of Arrow streams, as Hugging Face's datasets writes them."""

from __future__ import annotations

import os
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fungistore.errors import ItemError
from fungistore.remote.files import readable

GROUPS_KEPT = 2  # row groups in memory: neighbouring rows are asked for side by side
BYTES = "bytes"  # the field of a struct that holds an item


class ParquetRows:
    """Single cells of a Parquet file: `column,row`, the row counted from the file's start.

    The row groups asked for last are kept, since nothing smaller can be read.
    """

    def __init__(self, path: str) -> None:
        self._file = pq.ParquetFile(readable(path))
        metadata = self._file.metadata
        sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self._starts = [sum(sizes[:number]) for number in range(len(sizes))]
        self._rows = metadata.num_rows
        self._kept: dict[tuple[int, str], pa.ChunkedArray] = {}

    def read(self, key: str) -> bytes:
        """Return the bytes of one cell."""
        column, row = _parts(key, self._rows)
        group = max(number for number, start in enumerate(self._starts) if start <= row)
        if (group, column) not in self._kept:
            while len(self._kept) >= GROUPS_KEPT:
                del self._kept[next(iter(self._kept))]
            table = self._file.read_row_group(group, columns=[column])
            self._kept[group, column] = table.column(column)
        return _content(self._kept[group, column][row - self._starts[group]])

    def close(self) -> None:
        """Close the file."""
        self._kept.clear()
        self._file.close()


class StreamRows:
    """Single cells of an Arrow stream: `column,row`. The file is mapped, not read."""

    def __init__(self, path: str) -> None:
        self._map = pa.memory_map(os.fspath(path))
        self._table = pa.ipc.open_stream(self._map).read_all()

    def read(self, key: str) -> bytes:
        """Return the bytes of one cell."""
        column, row = _parts(key, len(self._table))
        return _content(self._table.column(column)[row])

    def close(self) -> None:
        """Let the map go."""
        del self._table
        self._map.close()


def open_parquet(path: str) -> ParquetRows:
    """Open a Parquet file."""
    return ParquetRows(path)


def open_stream(path: str) -> StreamRows:
    """Open a file that holds an Arrow stream."""
    return StreamRows(path)


def _parts(key: str, rows: int) -> tuple[str, int]:
    column, _, number = key.rpartition(",")
    row = int(number)
    if not 0 <= row < rows:
        raise ItemError(f"the file has no row {row}: it has {rows}")
    return column, row


def _content(cell: Any) -> bytes:
    value = cell.as_py()
    if isinstance(value, dict):
        value = value.get(BYTES)
    if isinstance(value, str):
        value = value.encode()
    if not isinstance(value, bytes) or not value:
        raise ItemError("there is nothing in the cell")
    return value
