"""Units whose files are plain arrays, one or several: mapped, read in part, checked."""

from __future__ import annotations

import hashlib
import mmap
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, cast

import google_crc32c
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, Crc32cCodec, Endian, ShardingCodec

from fungistore.store.backend import Bytes
from fungistore.store.chunks import CRC_BYTES, PIECE_BYTES, Counts, count_rows, shard_index

Encoded = NDArray[np.uint8]  # a chunk and its CRC-32C


@dataclass(frozen=True)
class PlainChunks:
    """The layout of a unit's file where its chunks are plain arrays.

    Attributes:
        rows: rows of a chunk, also of one that is partly filled.
        count: chunks of the file; more than one are a shard.
        row_shape: shape of a row.
        dtype: of the values.
    """

    rows: int
    count: int
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.row_shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk."""
        return self.rows * self.row_bytes + CRC_BYTES

    @property
    def index(self) -> bytes:
        """What ends a shard: offset and length of each chunk, and their CRC-32C."""
        return shard_index(self.count, self.chunk_bytes)

    @property
    def bytes(self) -> int:
        """Bytes of the file."""
        return self.count * self.chunk_bytes + len(self.index)

    def offset(self, row: int) -> int:
        """Return where in the file a row of the unit begins."""
        chunk, place = divmod(row, self.rows)
        return chunk * self.chunk_bytes + place * self.row_bytes

    def map(self, path: Path, chunk: int = 0) -> MappedRows:
        """Map a chunk.

        The checksum is not compared: that would read all rows for one. A map of a file that is too
        short crashes the process, so the size is compared; files are replaced whole and never
        shortened, so a mapped one stays as it was.

        Raises:
            OSError: the file cannot be read.
            ValueError: it has another size.
        """
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size != self.bytes:
                raise ValueError(f"{size} bytes, not {self.bytes}")
            page, start = divmod(chunk * self.chunk_bytes, mmap.ALLOCATIONGRANULARITY)
            offset = page * mmap.ALLOCATIONGRANULARITY
            # a private map: even a stray write into it would never reach the file
            length = start + self.chunk_bytes
            mapped = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_COPY, offset=offset)
        values = np.frombuffer(mapped, self.dtype, self.rows * prod(self.row_shape), start)
        return MappedRows(values.reshape(self.rows, *self.row_shape), mapped, start)

    def read(
        self, encoded: Callable[[int, range], Iterable[Encoded]], start: int, stop: int
    ) -> NDArray[Any]:
        """Return rows [start, stop) of an array, of files that are not there NaN.

        Only the chunks that they are in are read.

        Args:
            encoded: yields some neighbouring chunks of a unit's file, as `in_file` does.
            start: first row.
            stop: row after the last one.

        Raises:
            OSError: a file cannot be read.
            ValueError: it has another size, or a chunk another CRC-32C than it ends with.
        """
        found = np.full((stop - start, *self.row_shape), np.nan, self.dtype)
        size = self.rows * self.count
        for unit in range(start // size, -(-stop // size)):
            first = unit * size
            low, high = max(start, first), min(stop, first + size)
            chunks = range((low - first) // self.rows, -(-(high - first) // self.rows))
            with suppress(FileNotFoundError):
                for chunk, data in zip(chunks, encoded(unit, chunks), strict=True):
                    self._take(chunk, data, found[low - start : high - start], low - first)
        return found

    def in_file(self, path: Path, chunks: range) -> Iterator[Encoded]:
        """Yield some neighbouring chunks of a file, each in the place of the one before."""
        buffer = np.empty(self.chunk_bytes, np.uint8)
        with path.open("rb", buffering=0) as file:
            if (size := file.seek(0, 2)) != self.bytes:
                raise ValueError(f"{size} bytes, not {self.bytes}")
            file.seek(chunks.start * self.chunk_bytes)
            for _ in chunks:
                _fill(file, buffer)
                yield buffer

    def in_part(self, data: Bytes, chunks: range) -> Iterator[Encoded]:
        """Yield some neighbouring chunks of a part of a file that has these alone."""
        if len(data) != len(chunks) * self.chunk_bytes:
            raise ValueError(f"{len(data)} bytes, not {len(chunks) * self.chunk_bytes}")
        yield from np.frombuffer(data, np.uint8).reshape(len(chunks), self.chunk_bytes)

    def _take(self, chunk: int, data: Encoded, rows: NDArray[Any], start: int) -> None:
        """Fill rows of a unit, from `start` on, with those of them that a chunk has."""
        values, crc = data[:-CRC_BYTES], data[-CRC_BYTES:].tobytes()
        if google_crc32c.extend(0, values).to_bytes(CRC_BYTES, "little") != crc:
            raise ValueError(f"the CRC-32C of chunk {chunk} differs")
        whole = values.view(self.dtype).reshape(self.rows, *self.row_shape)
        first = chunk * self.rows
        low, high = max(start, first), min(start + len(rows), first + self.rows)
        rows[low - start : high - start] = whole[low - first : high - first]

    def examine(self, path: Path, rows: int) -> tuple[str, Counts]:
        """Return checksum and counts of a unit's first rows, reading all of it piece by piece.

        Raises:
            OSError: it cannot be read.
            ValueError: it has another size, or another CRC-32C or index than it ends with.
        """
        step = max(1, PIECE_BYTES // self.row_bytes)
        buffer = np.empty(min(step, self.rows) * self.row_bytes, np.uint8)
        state = hashlib.blake2b(digest_size=16)
        counts = np.zeros(3, np.int64)
        with path.open("rb", buffering=0) as file:
            for chunk in range(self.count):
                crc, left = 0, rows - chunk * self.rows
                for first in range(0, self.rows, step):
                    piece = buffer[: min(step, self.rows - first) * self.row_bytes]
                    _fill(file, piece)
                    crc = google_crc32c.extend(crc, piece)
                    if first < left:
                        committed = piece[: (left - first) * self.row_bytes]
                        state.update(committed.data)
                        found = count_rows(committed.view(self.dtype).reshape(-1, *self.row_shape))
                        counts += (found.nan, found.inf, found.zero)
                if file.read(CRC_BYTES) != crc.to_bytes(CRC_BYTES, "little"):
                    raise ValueError("its CRC-32C differs")
            if file.read(len(self.index) + 1) != self.index:
                raise ValueError("its end differs")
        return state.hexdigest(), Counts(*counts.tolist())


@dataclass(frozen=True)
class MappedRows:
    """A mapped chunk.

    Attributes:
        values: its rows.
        map: that they lie in.
        start: where in the map they begin.
    """

    values: NDArray[Any]
    map: mmap.mmap
    start: int


def plain_chunks(array: zarr.Array[Any]) -> PlainChunks | None:
    """Return the layout of files of plain arrays in this machine's byte order, else None."""
    codecs: Sequence[Any] = (array.serializer, *array.compressors)
    if array.shards:
        (outer,) = cast(Any, array.metadata).codecs
        if not isinstance(outer, ShardingCodec) or outer.index_location.value != "end":
            return None
        codecs = outer.codecs
    serializer, *compressors = codecs
    if array.filters or not isinstance(serializer, BytesCodec):
        return None
    is_native = array.dtype.itemsize == 1 or serializer.endian == Endian(sys.byteorder)
    if not is_native or [type(codec) for codec in compressors] != [Crc32cCodec]:
        return None
    rows = int(array.chunks[0])
    count = int(array.shards[0]) // rows if array.shards else 1
    return PlainChunks(rows, count, tuple(array.shape[1:]), np.dtype(array.dtype))


def _fill(file: IO[bytes], piece: NDArray[np.uint8]) -> None:
    """Read exactly as many bytes as fit: a read may end early, as at a signal."""
    view, done = piece.data, 0
    while done < len(view):
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise ValueError("it ends too early")
        done += count
