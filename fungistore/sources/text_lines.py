"""The lines of a file as a table of one column, so that each is an item."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from fungistore.sources.long_cells import cut_lines
from fungistore.text import byte_pieces

ROWS_AT_ONCE = 1024
BYTES_AT_ONCE = 1 << 22
_NUL = b"\0"


class TextLines:
    """A column of all lines but those of nothing but white space.

    Args:
        path: the file; of any UTF with its mark, else UTF-8.
        name: of the column.
        nul_ends: whether NULs part the texts, which may then have lines.
    """

    decimal = "."
    has_blanks = False

    def __init__(self, path: str | Path, name: str, *, nul_ends: bool = False) -> None:
        self.path = path
        self.names = [name]
        self._nul_ends = nul_ends

    def type_of(self, name: str) -> pa.DataType:
        """Return the type of the column."""
        return pa.binary()

    def batches(self, types: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        """Yield the column, some lines at a time."""
        lines: list[bytes] = []
        held = 0
        for line in self._lines():
            lines.append(line)
            held += len(line)
            if len(lines) == ROWS_AT_ONCE or held >= BYTES_AT_ONCE:
                yield self._batch(lines)
                lines, held = [], 0
        if lines:
            yield self._batch(lines)

    def _batch(self, lines: list[bytes]) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays([pa.array(lines, pa.binary())], self.names)

    def _lines(self) -> Iterator[bytes]:
        with open(self.path, "rb") as file:
            end = _NUL if self._nul_ends else _line_end(next(byte_pieces(file), b""))
            file.seek(0)
            for line in cut_lines(byte_pieces(file), end):
                if stripped := line.strip():
                    yield stripped


def _line_end(head: bytes) -> bytes:
    return b"\r" if b"\r" in head and b"\n" not in head else b"\n"
