"""Parquet: a row a sample, its vector in a list column, or in one numeric column a dimension."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fungistore.errors import UsageError
from fungistore.exchange.formats import (
    KEYS_SHOWN,
    PROVENANCE,
    SAMPLE_SCHEMA,
    VECTORS,
    Block,
    Contents,
    Matrix,
    read_provenance,
    refuse_missing_file,
    refuse_numbers,
    rows_at_once,
)
from fungistore.exchange.table import ColumnNames, read_parquet_table
from fungistore.quantities import counted
from fungistore.sources.headers import is_word
from fungistore.store.durable import file_digest, publish

BUFFER_BYTES = 1 << 20  # read ahead of a column, instead of all its bytes in a row group


def write_parquet(path: Path, contents: Contents, blocks: Iterable[Block]) -> None:
    """Write samples and vectors, a row group a block; the file appears whole or not at all."""
    publish(path, lambda temporary: _write(temporary, contents, blocks))


def _write(path: Path, contents: Contents, blocks: Iterable[Block]) -> None:
    value = pa.from_numpy_dtype(contents.dtype)
    lists = [pa.field(name, pa.list_(value, width)) for name, (width,) in contents.shapes.items()]
    document = contents.provenance | {"label_names": contents.label_names}
    schema = pa.schema([*SAMPLE_SCHEMA, *lists], {PROVENANCE: json.dumps(document)})
    # vectors do not compress, and a dictionary of their values only costs time
    codecs = dict.fromkeys(SAMPLE_SCHEMA.names, "zstd")
    codecs |= {f"{name}.list.element": "none" for name in contents.shapes}
    with pq.ParquetWriter(
        path, schema, compression=codecs, use_dictionary=["label_name", "split"]
    ) as writer:
        for block in blocks:
            columns = [*block.samples.columns]
            for name, (width,) in contents.shapes.items():
                values = pa.array(block.vectors[name].reshape(-1))
                columns.append(pa.FixedSizeListArray.from_arrays(values, width))
            writer.write_table(pa.table(columns, schema=schema))


class ParquetVectors:
    """Vectors in a Parquet file; see `FeatureFile`.

    Args:
        path: the file.
        key: a column of lists, or a pattern such as "f*" for numeric columns; default: the column
            "embeddings", or the only one of lists of floats, or all of floats.
        names: the columns that say what the rows are.

    Raises:
        UsageError: the file is none, or has no such vectors.
    """

    is_random_access = False
    remark: str | None = None

    def __init__(self, path: Path, key: str | None, names: ColumnNames) -> None:
        refuse_missing_file(path)
        self.path = path
        self._names = names
        try:
            self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES)
        except (OSError, pa.ArrowException) as error:
            raise UsageError(
                "the file cannot be read as Parquet",
                where=path,
                found=error,
                hint="copy or save it again; of another kind, say so with --format",
            ) from error
        schema = self._file.schema_arrow
        words = [field.name for field in schema if is_word(field.type)]
        texts = names.find(schema.names, path, words)
        self.has_samples = bool({"id", "path", "label", "split"} & texts.keys())
        metadata = self._file.metadata.metadata or {}
        self.provenance = read_provenance(path, metadata.get(PROVENANCE.encode()))
        self._columns = _choose(path, schema, key, set(texts.values()))
        self.key = key or (self._columns[0] if len(self._columns) == 1 else "")
        kinds = [schema.field(name).type for name in self._columns]
        self._is_list = _is_list(kinds[0])
        values = [kind.value_type if self._is_list else kind for kind in kinds]
        self.dtype = max((np.dtype(v.to_pandas_dtype()) for v in values), key=lambda d: d.itemsize)
        self.rows = self._file.metadata.num_rows
        counts = [
            self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)
        ]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.dim = self._width(kinds[0])
        refuse_numbers(f"{path}, column {self.key}", (self.rows, self.dim), self.dtype)
        self.row_shape: tuple[int, ...] = (self.dim,)
        self._at = 0
        self._ready: Matrix = np.empty((0, self.dim), self.dtype)
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._rewind(0)

    def read(self, start: int, stop: int) -> Matrix:
        """Return rows [start, stop); going back begins again at a row group."""
        ahead = np.searchsorted(self._starts, start, side="right") - 1
        if start < self._at or self._starts[ahead] > self._at + len(self._ready):
            self._rewind(start)
        parts = []
        while self._at < stop:
            if not len(self._ready):
                self._ready = self._vectors(next(self._batches), self._at)
            skip = min(max(start - self._at, 0), len(self._ready))
            taken = self._ready[skip : stop - self._at]
            if len(taken):
                parts.append(taken)
            used = skip + len(taken)
            self._at, self._ready = self._at + used, self._ready[used:]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def take(self, rows: NDArray[np.int64]) -> Matrix:
        """Return some rows: not without reading all that are between them."""
        raise NotImplementedError("rows of a Parquet file are read in order")

    def samples(self) -> Iterator[pa.Table]:
        """Yield the columns about the rows."""
        return read_parquet_table(self.path, self._names)

    def content(self) -> str:
        """Return a digest of the whole file."""
        return file_digest(self.path)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _rewind(self, row: int) -> None:
        """Stand at the start of the row group that holds a row."""
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        self._at = int(self._starts[group])
        self._ready = np.empty((0, self.dim), self.dtype)
        self._batches = self._file.iter_batches(
            rows_at_once(self.dim * self.dtype.itemsize),
            row_groups=range(group, self._file.num_row_groups),
            columns=self._columns,
            use_threads=False,
        )

    def _width(self, kind: Any) -> int:
        if not self._is_list:
            return len(self._columns)
        if pa.types.is_fixed_size_list(kind):
            return int(kind.list_size)
        for batch in self._file.iter_batches(1024, columns=self._columns):
            if lengths := [n for n in batch.column(0).value_lengths().to_pylist() if n is not None]:
                return int(lengths[0])
        return 0

    def _vectors(self, batch: pa.RecordBatch, first: int) -> Matrix:
        """Return a batch's vectors; rows without one, and missing values, are NaN."""
        if not self._is_list:
            columns = [_values(batch.column(name), self.dtype) for name in self._columns]
            return np.stack(columns, axis=1)
        column = batch.column(0)
        if not pa.types.is_fixed_size_list(column.type):
            lengths = column.value_lengths().fill_null(self.dim).to_numpy()
            if (lengths != self.dim).any():
                odd = int(np.flatnonzero(lengths != self.dim)[0])
                raise UsageError(
                    "the vectors are not all of the same width",
                    where=f"{self.path}, column {self.key}, row {first + odd}",
                    expected=f"{counted(self.dim, 'value')}, as in the first row",
                    found=f"{counted(lengths[odd], 'value')}",
                    hint="drop or mend the odd rows",
                )
        vectors = np.full((len(column), self.dim), np.nan, self.dtype)
        is_there = column.is_valid().to_numpy(zero_copy_only=False)
        vectors[is_there] = _values(column.flatten(), self.dtype).reshape(-1, self.dim)
        return vectors


def _choose(path: Path, schema: pa.Schema, key: str | None, texts: set[str]) -> list[str]:
    """Return the column of lists, or the columns of numbers, that hold the vectors."""
    lists = [f.name for f in schema if _is_list(f.type) and pa.types.is_floating(f.type.value_type)]
    numbers = [f.name for f in schema if pa.types.is_floating(f.type) and f.name not in texts]
    if key is not None:
        if key in lists:
            return [key]
        chosen = [name for name in numbers if fnmatchcase(name, key)]
    elif VECTORS in lists or len(lists) == 1:
        return [VECTORS] if VECTORS in lists else lists
    else:
        chosen = [] if lists else numbers
    if not chosen:
        columns = [f"{field.name} ({field.type})" for field in schema]
        shown = ", ".join(columns[:KEYS_SHOWN]) + (", ..." if len(columns) > KEYS_SHOWN else "")
        raise UsageError(
            f"there are no vectors in column {key!r}" if key else "the vectors cannot be chosen",
            where=path,
            expected="a column of lists of floats, or columns of floats",
            found=shown,
            hint=f"name the column with --key, one of {', '.join(lists)}"
            if lists
            else "name the columns by a pattern, such as --key 'f*'",
        )
    return chosen


def _is_list(kind: Any) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _values(column: Any, dtype: np.dtype[Any]) -> Matrix:
    values: Matrix = column.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
    return values
