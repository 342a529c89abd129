"""Samples as columns, so that ten million of them need no Python object each.

A source may have `batches()`, which yields Arrow record batches of `columns_schema(columns)`. Of
one that only yields samples, batches are made here; so every source can be listed both ways.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa

from fungistore.sources.cells import ARROW
from fungistore.sources.sample import CellType, Sample, Source, columns_of

BATCH_ROWS = 16_384
CELL = "column."  # before the name of a column of the source's own, so that it meets no other's
WORDS = pa.dictionary(pa.int32(), pa.string())
# what every sample has; `mtime` is in microseconds from the epoch
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("uri", pa.string()),
        ("label", WORDS),
        ("split", WORDS),
        ("bytes", pa.int64()),
        ("mtime", pa.int64()),
    ]
)
MICROSECONDS = 1_000_000
CALENDAR = (-62_135_596_800, 253_402_300_799)  # the years 1 to 9999, in seconds from the epoch


def columns_schema(columns: Mapping[str, CellType]) -> pa.Schema:
    """Return the columns of a batch, those of the source's cells behind the others."""
    return pa.schema([*SCHEMA, *((CELL + name, ARROW[kind]) for name, kind in columns.items())])


def batches_of(source: Source) -> Iterator[pa.RecordBatch]:
    """Yield all samples of a source in their order, some thousands at a time."""
    batches = getattr(source, "batches", None)
    if batches is not None:
        yield from batches()
        return
    schema, stream = columns_schema(columns_of(source)), iter(source)
    while samples := list(islice(stream, BATCH_ROWS)):
        yield as_batch(samples, schema)


def samples_in(batches: Iterable[pa.RecordBatch]) -> Iterator[Sample]:
    """Yield the samples of batches."""
    for batch in batches:
        ids, uris, labels, splits, sizes, times, *cells = (c.to_pylist() for c in batch.columns)
        seconds = (None if time is None else time / MICROSECONDS for time in times)
        others = zip(*cells, strict=True) if cells else [()] * len(batch)
        for values in zip(ids, uris, labels, splits, sizes, seconds, others, strict=True):
            yield Sample(*values)


def microseconds(seconds: float | None) -> int | None:
    """Return a time for the table, None for one beyond the calendar (broken disks have such)."""
    if seconds is None or not CALENDAR[0] < seconds < CALENDAR[1]:
        return None
    return round(seconds * MICROSECONDS)


def as_batch(samples: Sequence[Sample], schema: pa.Schema) -> pa.RecordBatch:
    """Return samples as columns."""
    columns: list[list[Any]] = [
        [sample.id for sample in samples],
        [sample.uri for sample in samples],
        [sample.label for sample in samples],
        [sample.split for sample in samples],
        [sample.bytes for sample in samples],
        [microseconds(sample.mtime) for sample in samples],
        *map(list, zip(*(sample.cells for sample in samples), strict=True)),
    ]
    types = [field.type for field in schema]
    arrays = [
        pa.array(column, pa.string()).dictionary_encode()
        if kind == WORDS
        else pa.array(column, kind)
        for column, kind in zip(columns, types, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
