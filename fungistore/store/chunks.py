"""What a chunk is: the rows of one unit, encoded, then four bytes of CRC-32C.

With codec "none" it is a plain C-order array and its checksum, which can be memory-mapped; the
others compress. zarr reads both; they are encoded here, so that a backend can publish them.
"""

from __future__ import annotations

import hashlib
import mmap
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, get_args

import google_crc32c
import numpy as np
import zarr
from numcodecs import BitRound
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, Endian
from zarr.storage import MemoryStore

from fungistore.choices import Codec
from fungistore.quantities import counted

CODECS: tuple[Codec, ...] = get_args(Codec)
BITROUND_KEPT_BITS = 5  # of float16's 10 mantissa bits: a relative error of 0.7 % (storage facts)
METADATA = "zarr.json"
UNIT_NAME = re.compile("[0-9]{1,18}")  # of a chunk's file or folder in that of all
CRC_BYTES = 4
BLOSC_BYTES = 1024  # of a compressed chunk's header and its first blocks', and more than they have
FRAMES = 256  # one byte in so many, more than the frames of all other blocks take (measured)
PIECE_BYTES = 1 << 18  # of rows at once: hashed and counted while they are in the core's cache


@dataclass(frozen=True)
class Counts:
    """Rows with a NaN, with an infinity, and with all values zero."""

    nan: int
    inf: int
    zero: int

    def __str__(self) -> str:
        return f"{self.nan} NaN, {self.inf} infinite, {counted(self.zero, 'zero row')}"


@dataclass(frozen=True)
class PlainChunk:
    """The layout of an array's chunks where they are plain arrays.

    Attributes:
        unit_rows: rows of a chunk, also of one that is partly filled.
        row_shape: shape of a row.
        dtype: of the values.
    """

    unit_rows: int
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.row_shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def bytes(self) -> int:
        """Bytes of a chunk."""
        return self.unit_rows * self.row_bytes + CRC_BYTES

    def map(self, path: Path) -> tuple[NDArray[Any], mmap.mmap]:
        """Map a chunk: its rows, and the map that they lie in.

        The checksum is not compared: that would read all rows for one. A map of a file that is too
        short crashes the process, so the size is compared; chunks are replaced whole and never
        shortened, so a mapped one stays as it was.

        Raises:
            OSError: the file cannot be read.
            ValueError: it has another size.
        """
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size != self.bytes:
                raise ValueError(f"{size} bytes, not {self.bytes}")
            # a private map: even a stray write into it would never reach the file
            mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
        values = np.frombuffer(mapped, self.dtype, self.unit_rows * int(np.prod(self.row_shape)))
        return values.reshape(self.unit_rows, *self.row_shape), mapped

    def examine(self, path: Path, rows: int) -> tuple[str, Counts]:
        """Return checksum and counts of a chunk's first rows, reading all of it piece by piece.

        Raises:
            OSError: it cannot be read.
            ValueError: it has another size, or another CRC-32C than it ends with.
        """
        step = max(1, PIECE_BYTES // self.row_bytes)
        buffer = np.empty(min(step, self.unit_rows) * self.row_bytes, np.uint8)
        state = hashlib.blake2b(digest_size=16)
        crc, counts = 0, np.zeros(3, np.int64)
        with path.open("rb", buffering=0) as file:
            for first in range(0, self.unit_rows, step):
                piece = buffer[: min(step, self.unit_rows - first) * self.row_bytes]
                _fill(file, piece)
                crc = google_crc32c.extend(crc, piece)
                if first < rows:
                    committed = piece[: (rows - first) * self.row_bytes]
                    state.update(committed.data)
                    found = count_rows(committed.view(self.dtype).reshape(-1, *self.row_shape))
                    counts += (found.nan, found.inf, found.zero)
            if file.read(CRC_BYTES + 1) != crc.to_bytes(CRC_BYTES, "little"):
                raise ValueError("its CRC-32C differs")
        return state.hexdigest(), Counts(*counts.tolist())


def plain_chunk(array: zarr.Array[Any]) -> PlainChunk | None:
    """Return the layout of chunks that are plain arrays in this machine's byte order, else None."""
    serializer = array.serializer
    if array.shards or array.filters or not isinstance(serializer, BytesCodec):
        return None
    is_native = array.dtype.itemsize == 1 or serializer.endian == Endian(sys.byteorder)
    if not is_native or [type(codec) for codec in array.compressors] != [Crc32cCodec]:
        return None
    return PlainChunk(int(array.chunks[0]), tuple(array.shape[1:]), np.dtype(array.dtype))


def blank_array(
    shape: tuple[int, ...], dtype: str, unit_rows: int, codec: Codec, attributes: dict[str, Any]
) -> tuple[zarr.Array[Any], bytes]:
    """Return an array in memory, of rows that read as NaN, and its `zarr.json`."""
    kept: dict[str, Any] = {}
    array = zarr.create_array(
        MemoryStore(kept),
        shape=shape,
        chunks=(unit_rows, *shape[1:]),
        dtype=dtype,
        fill_value=float("nan"),
        compressors=_compressors(codec),
        attributes=attributes,
    )
    return array, kept[METADATA].to_bytes()


def encode(block: NDArray[Any], unit_rows: int, codec: Codec) -> tuple[bytes | memoryview, ...]:
    """Return a chunk, in pieces: the first rows of a unit; what is left of it is NaN."""
    whole = block
    if len(block) < unit_rows:
        whole = np.full((unit_rows, *block.shape[1:]), np.nan, block.dtype)
        whole[: len(block)] = block
    if codec == "none":
        data = np.ascontiguousarray(whole).reshape(-1).view(np.uint8)
        return data.data, google_crc32c.extend(0, data).to_bytes(CRC_BYTES, "little")
    kept: dict[str, Any] = {}
    array = zarr.create_array(
        MemoryStore(kept),
        shape=whole.shape,
        chunks=whole.shape,
        dtype=whole.dtype,
        compressors=_compressors(codec),
        # a unit of unreadable items is all NaN, the fill value, and must be written all the same
        fill_value=float("nan"),
        config={"write_empty_chunks": True},
    )
    array[...] = whole
    key = array.metadata.encode_chunk_key((0,) * whole.ndim)
    return (kept[key].to_bytes(),)


def most_bytes(row_bytes: int, rows: int, unit_rows: int, codec: Codec) -> int:
    """Return the bytes of a chunk with some rows of a unit; where they are compressed, at most."""
    filler = (unit_rows - rows) * row_bytes
    if codec == "none":
        return rows * row_bytes + filler + CRC_BYTES
    # noise is kept as it is, with a few bytes a block; of what is all NaN, next to nothing
    return rows * row_bytes + (rows * row_bytes + filler) // FRAMES + BLOSC_BYTES + CRC_BYTES


def has_right_crc(chunk: bytes) -> bool:
    """Whether a chunk ends with the CRC-32C of the rest: its bytes are those that were written."""
    found = google_crc32c.extend(0, chunk[:-CRC_BYTES])
    return len(chunk) > CRC_BYTES and chunk.endswith(found.to_bytes(CRC_BYTES, "little"))


def checksum(rows: NDArray[Any]) -> str:
    """Return a digest of the values of some rows."""
    return hashlib.blake2b(np.ascontiguousarray(rows).data, digest_size=16).hexdigest()


def checksums(rows: NDArray[Any], counts: Sequence[int]) -> list[str]:
    """Return the checksum of the first rows, for each of some ascending numbers of them."""
    state, done, found = hashlib.blake2b(digest_size=16), 0, []
    for count in counts:
        state.update(np.ascontiguousarray(rows[done:count]).data)
        found.append(state.hexdigest())
        done = count
    return found


def count_rows(rows: NDArray[Any]) -> Counts:
    """Return how many rows have a NaN, have an infinity, and are all zero.

    Compares bits, which for float16 is many times as fast as `np.isnan`: without its sign, a number
    is zero where its bits are, infinite where they are infinity's, and NaN beyond.
    """
    flat = rows.reshape(len(rows), -1)
    if flat.dtype.kind != "f":
        return Counts(0, 0, int((flat == 0).all(axis=1).sum()))
    kind = np.dtype(f"u{flat.itemsize}")
    infinity = np.array(np.inf, flat.dtype).view(kind)
    magnitude = np.array(np.iinfo(kind).max >> 1, kind)
    step = max(1, PIECE_BYTES // max(1, flat.itemsize * flat.shape[1]))
    nan = inf = zero = 0
    for start in range(0, len(flat), step):
        bits = flat[start : start + step].view(kind) & magnitude
        most = bits.max(axis=1)
        nan += int((most > infinity).sum())
        inf += int((bits[most >= infinity] == infinity).any(axis=1).sum())
        zero += int((most == 0).sum())
    return Counts(nan, inf, zero)


def round_bits(block: NDArray[Any]) -> NDArray[Any]:
    """Return values rounded to the mantissa bits that "bitround" keeps, so that they compress.

    Rounding here, and not in a zarr filter, leaves files that every zarr implementation reads.
    """
    encoded = BitRound(keepbits=BITROUND_KEPT_BITS).encode(block)
    rounded = np.asarray(encoded).view(block.dtype).reshape(block.shape)
    # some NaN would round up into numbers, and the largest numbers into infinity: these stay
    return np.where(np.isnan(block) | np.isinf(rounded), block, rounded)


def _compressors(codec: Codec) -> list[Any]:
    if codec == "none":
        return [Crc32cCodec()]
    return [BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"), Crc32cCodec()]


def _fill(file: IO[bytes], piece: NDArray[np.uint8]) -> None:
    """Read exactly as many bytes as fit: a read may end early, as at a signal."""
    view, done = piece.data, 0
    while done < len(view):
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise ValueError("it ends too early")
        done += count
