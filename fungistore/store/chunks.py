"""What the file of a unit is: one chunk, or a shard of several, each with its CRC-32C.

With codec "none" a chunk is a plain C-order array and its checksum, which can be memory-mapped; the
others compress. A shard is its chunks one after the other, all of them, then where each one begins
and how long it is, as zarr's sharding has it. zarr reads all of these; they are encoded here, so
that a backend can publish them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import google_crc32c
import numpy as np
import zarr
from numcodecs import BitRound
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import MemoryStore

from fungistore.choices import Codec
from fungistore.fingerprint import Config
from fungistore.quantities import counted

CODECS: tuple[Codec, ...] = get_args(Codec)
BITROUND_KEPT_BITS = 5  # of float16's 10 mantissa bits: a relative error of 0.7 % (storage facts)
METADATA = "zarr.json"
UNIT_NAME = re.compile("[0-9]{1,18}")  # of a chunk's file or folder in that of all
CRC_BYTES = 4
INDEX_BYTES = 16  # of a chunk in the index of a shard
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


def layout_config(unit_rows: int | None, shard_units: int, codec: Codec) -> Config:
    """Return the part of a configuration that says how rows are stored.

    Args:
        unit_rows: rows of a unit, in all of its chunks.
        shard_units: chunks of a unit's file.
        codec: of them.
    """
    layout: Config = {"unit_rows": unit_rows, "codec": codec}
    return layout | ({"shard_units": shard_units} if shard_units > 1 else {})


def blank_array(
    shape: tuple[int, ...],
    dtype: str,
    unit_rows: int,
    shard_units: int,
    codec: Codec,
    attributes: dict[str, Any],
) -> tuple[zarr.Array[Any], bytes]:
    """Return an array in memory, of rows that read as NaN, and its `zarr.json`."""
    kept: dict[str, Any] = {}
    array = zarr.create_array(
        MemoryStore(kept),
        shape=shape,
        **_chunking((unit_rows, *shape[1:]), shard_units),
        dtype=dtype,
        fill_value=float("nan"),
        compressors=_compressors(codec),
        attributes=attributes,
    )
    return array, kept[METADATA].to_bytes()


def encode(
    block: NDArray[Any], unit_rows: int, codec: Codec, shard_units: int = 1
) -> tuple[bytes | memoryview, ...]:
    """Return a unit's file, in pieces: its first rows; what is left of it is NaN."""
    whole = block
    if len(block) < unit_rows:
        whole = np.full((unit_rows, *block.shape[1:]), np.nan, block.dtype)
        whole[: len(block)] = block
    if codec == "none":
        chunks = np.split(np.ascontiguousarray(whole), shard_units)
        pieces = [piece for chunk in chunks for piece in _with_crc(chunk)]
        return (*pieces, shard_index(shard_units, chunks[0].nbytes + CRC_BYTES))
    kept: dict[str, Any] = {}
    array = zarr.create_array(
        MemoryStore(kept),
        shape=whole.shape,
        **_chunking(whole.shape, shard_units),
        dtype=whole.dtype,
        compressors=_compressors(codec),
        # a unit of unreadable items is all NaN, the fill value, and must be written all the same
        fill_value=float("nan"),
        config={"write_empty_chunks": True},
    )
    array[...] = whole
    key = array.metadata.encode_chunk_key((0,) * whole.ndim)
    return (kept[key].to_bytes(),)


def shard_index(count: int, chunk_bytes: int) -> bytes:
    """Return what ends a shard of chunks of one size: their offsets and lengths, and a CRC-32C."""
    if count == 1:
        return b""
    places = np.empty((count, 2), "<u8")
    places[:, 0] = chunk_bytes * np.arange(count)
    places[:, 1] = chunk_bytes
    return b"".join(_with_crc(places))


def _chunking(unit: tuple[int, ...], shard_units: int) -> dict[str, Any]:
    """Return zarr's words for a unit's file of so many chunks."""
    if shard_units == 1:
        return {"chunks": unit}
    return {"chunks": (unit[0] // shard_units, *unit[1:]), "shards": unit}


def _with_crc(values: NDArray[Any]) -> tuple[memoryview, bytes]:
    data = values.reshape(-1).view(np.uint8)
    return data.data, google_crc32c.extend(0, data).to_bytes(CRC_BYTES, "little")


def most_bytes(
    row_bytes: int, rows: int, unit_rows: int, codec: Codec, shard_units: int = 1
) -> int:
    """Return the bytes of a unit's file with some rows; where they are compressed, at most."""
    filler = (unit_rows - rows) * row_bytes
    ends = shard_units * CRC_BYTES
    if shard_units > 1:
        ends += shard_units * INDEX_BYTES + CRC_BYTES
    if codec == "none":
        return rows * row_bytes + filler + ends
    # noise is kept as it is, with a few bytes a block; of what is all NaN, next to nothing
    frames = (rows * row_bytes + filler) // FRAMES + shard_units * BLOSC_BYTES
    return rows * row_bytes + frames + ends


def chunks_of(file: bytes, count: int) -> list[memoryview]:
    """Return the encoded chunks of a unit's file, without their checksums; nothing is copied.

    Args:
        file: its bytes.
        count: its chunks.

    Raises:
        ValueError: it does not end with an index of so many chunks.
    """
    return [chunk[:-CRC_BYTES] for chunk in _chunks_with_crc(file, count)]


def is_whole(file: bytes, count: int) -> bool:
    """Whether each of a unit's chunks ends with its CRC-32C: its bytes are those written."""
    try:
        return all(map(has_right_crc, _chunks_with_crc(file, count)))
    except ValueError:
        return False


def _chunks_with_crc(file: bytes, count: int) -> list[memoryview]:
    whole = memoryview(file)
    if count == 1:
        return [whole]
    index = whole[-(count * INDEX_BYTES + CRC_BYTES) :]
    if not has_right_crc(index) or len(index) != count * INDEX_BYTES + CRC_BYTES:
        raise ValueError("the index of the shard is damaged")
    places = np.frombuffer(index[:-CRC_BYTES], "<u8").reshape(count, 2).tolist()
    return [whole[start : start + size] for start, size in places]


def has_right_crc(chunk: bytes | memoryview) -> bool:
    """Whether a chunk ends with the CRC-32C of the rest: its bytes are those that were written."""
    if len(chunk) <= CRC_BYTES:
        return False
    found = google_crc32c.extend(0, np.frombuffer(chunk[:-CRC_BYTES], np.uint8))
    return found.to_bytes(CRC_BYTES, "little") == bytes(chunk[-CRC_BYTES:])


def checksum(rows: NDArray[Any]) -> str:
    """Return a digest of the values of some rows."""
    return hashlib.blake2b(np.ascontiguousarray(rows).data, digest_size=16).hexdigest()


def examine(pieces: Iterable[NDArray[Any]], ends: Sequence[int]) -> tuple[list[str], Counts]:
    """Return checksums and counts of a unit's rows, which come piece by piece.

    Args:
        pieces: the rows, one stretch after the other.
        ends: numbers of rows, ascending, each where some piece ends: the first rows that a
            checksum is wanted of. The last one is of all rows.
    """
    state, done, found = hashlib.blake2b(digest_size=16), 0, []
    nan = inf = zero = 0
    for piece in pieces:
        rows = np.ascontiguousarray(piece)
        state.update(rows.data)
        counts = count_rows(rows)
        nan, inf, zero = nan + counts.nan, inf + counts.inf, zero + counts.zero
        done += len(rows)
        if done in ends:
            found.append(state.hexdigest())
    return found, Counts(nan, inf, zero)


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
