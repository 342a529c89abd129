"""Bytes, files and requests of a store that is not there yet, by the code that writes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fungistore.extraction.growth import growth_of_units
from fungistore.extraction.plan import Gap
from fungistore.planning.content import Content
from fungistore.store.chunks import most_bytes
from fungistore.store.feature import Feature


@dataclass(frozen=True)
class PlannedArray:
    """One array of the plan.

    Attributes:
        name: its path in the feature set.
        row_shape: of an image.
        dtype: NumPy name of its type.
        bytes: of all chunks; at most where a codec compresses and nothing was measured.
        files: of units: chunks, or shards of several.
        is_measured: whether the chunks of a store say how far they are compressed.
    """

    name: str
    row_shape: tuple[int, ...]
    dtype: str
    bytes: int
    files: int
    is_measured: bool


@dataclass(frozen=True)
class Storage:
    """What lies on the disk, or in the bucket, when all is done.

    Attributes:
        arrays: each one's part.
        bytes: of chunks, records and digests; the table of samples, heads and the like are some
            hundred bytes an image at most, and not in it.
        are_most: whether a codec compresses, so that they will be fewer.
        record_bytes: of them, of the records and digests.
        record_files: records of units and digests of items: a file each.
        files: all of these.
        requests: that write them, where each file is an object.
    """

    arrays: tuple[PlannedArray, ...]
    bytes: int
    are_most: bool
    record_bytes: int
    record_files: int
    files: int
    requests: int


def storage(content: Content, images: int, unit_rows: int, shard_units: int) -> Storage:
    """Return what an extraction of some images leaves behind."""
    units = -(-images // unit_rows)
    gaps = list(_kinds_of_units(content, images, unit_rows))
    arrays = []
    chunks_of_all = 0
    for array in content.arrays:
        chunks = sum(
            count
            * most_bytes(
                array.row_bytes,
                gap.stop - gap.start,
                unit_rows,
                array.codec(content.codec),
                shard_units,
            )
            for gap, count in gaps
        )
        chunks_of_all += chunks
        mean = content.chunk_bytes.get(array.path)
        size = chunks if mean is None else round(units * mean)
        arrays.append(
            PlannedArray(array.path, array.row_shape, array.dtype, size, units, mean is not None)
        )
    grown = sum(
        count
        * growth_of_units([gap], content.arrays, {}, unit_rows, shard_units, content.codec, {})
        for gap, count in gaps
    )
    records = grown - chunks_of_all
    record_files = units * (len(arrays) + 1)
    files = record_files + sum(array.files for array in arrays)
    return Storage(
        arrays=tuple(arrays),
        bytes=records + sum(array.bytes for array in arrays),
        are_most=content.codec != "none" and not all(array.is_measured for array in arrays),
        record_bytes=records,
        record_files=record_files,
        files=files,
        requests=files,
    )


def _kinds_of_units(content: Content, images: int, unit_rows: int) -> Iterator[tuple[Gap, int]]:
    """Yield a unit of each kind, and how many are of it: a record is as long as its numbers are."""
    features = frozenset(array.asked for array in content.arrays)
    full, rest = divmod(images, unit_rows)
    first = 0
    while first < full:
        end = min(full, 10 ** len(str(max(first, 1))))
        yield Gap(first, first * unit_rows, (first + 1) * unit_rows, features), end - first
        first = end
    if rest:
        yield Gap(full, full * unit_rows, images, features), 1


def chunk_bytes(array: Feature, content: Content, unit_rows: int) -> int:
    """Return the bytes of one full chunk, at most."""
    return most_bytes(array.row_bytes, unit_rows, unit_rows, array.codec(content.codec))
