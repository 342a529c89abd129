"""A table of corrections: a manifest of samples that a store has, whose files nobody looks at."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from fungistore.errors import UsageError
from fungistore.sources.batches import CELL, columns_schema
from fungistore.sources.cells import cell_column
from fungistore.sources.headers import ID, LABEL, PATH, SPLIT
from fungistore.sources.manifest import ManifestSource
from fungistore.sources.rows import ItemRows


class CorrectionTable(ManifestSource):
    """The rows of a table as a source; an id that is not there is the path.

    Args:
        path: a .csv or .parquet file with `id` or `path`, and `label`, `split` or other columns.

    Raises while iterating:
        UsageError: the file is malformed, or a row has no id.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._rows = ItemRows(self.path, by_id=True)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows as columns, without places, sizes and times of files."""
        kept = self.columns()
        schema, row = columns_schema(kept), 0
        for batch in self._batches(kept):
            ids = pc.coalesce(_column(batch, ID), _column(batch, PATH))
            if ids.null_count:
                missing = row + ids.is_null().index(True).as_py() + 1
                raise UsageError("a row has no id", where=f"{self.path}, row {missing}")
            words = (_column(batch, name).dictionary_encode() for name in (LABEL, SPLIT))
            nothing = pa.nulls(len(batch), pa.int64())
            decimal = self._rows.columns.decimal
            cells = (
                cell_column(batch.column(CELL + name), kind, decimal) for name, kind in kept.items()
            )
            arrays = [ids, ids, *words, nothing, nothing, *cells]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)
            row += len(batch)


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    """Return a column as text, empty cells as none."""
    if name not in batch.schema.names:
        return pa.nulls(len(batch), pa.string())
    texts = batch.column(name)
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
