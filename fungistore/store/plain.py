"""Samples of a source, and rows of the table, in the same columns: what is compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fungistore.sources.batches import CELL
from fungistore.sources.cells import ARROW
from fungistore.sources.sample import CellType
from fungistore.store.columns import cells_in
from fungistore.store.hashing import Hashes, hash_rows

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("uri", pa.string()),
        ("label", pa.int32()),
        ("split", pa.string()),
        ("bytes", pa.int64()),
        ("mtime", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Terms:
    """What a listing compares.

    Attributes:
        labels: number of each class name.
        kinds: types of the source's further columns that hold both its cells and the table's.
        knows: what the source says of its samples: "label", "split"; what it does not know is not
            compared.
        places: whether places, sizes and times of files are compared too.
    """

    labels: Mapping[str, int]
    kinds: Mapping[str, CellType]
    knows: frozenset[str]
    places: bool = True

    @property
    def schema(self) -> pa.Schema:
        """Of plain batches."""
        cells = ((CELL + name, ARROW[kind]) for name, kind in self.kinds.items())
        return pa.schema([*SCHEMA, *cells])

    @property
    def numbered(self) -> pa.Schema:
        """The same with the row before it."""
        return self.schema.insert(0, pa.field("row", pa.int64()))

    def listed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return a source's batch as a plain one."""
        labels, splits = batch["label"], batch["split"]
        numbers = [self.labels[name] for name in labels.dictionary.to_pylist()]
        return self._plain(
            batch,
            pa.array(numbers, pa.int32()).take(labels.indices),
            splits.dictionary.take(splits.indices),
            batch["mtime"],
        )

    def stored(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return a batch of a part as a plain one."""
        split = batch["split"].cast(pa.string())
        return self._plain(batch, batch["label"], split, batch["mtime"].cast(pa.int64()))

    def _plain(
        self, batch: pa.RecordBatch, labels: pa.Array, splits: pa.Array, times: pa.Array
    ) -> pa.RecordBatch:
        columns = [batch["id"], batch["uri"], labels, splits, batch["bytes"], times]
        return pa.RecordBatch.from_arrays(
            [*columns, *cells_in(batch, self.kinds)], schema=self.schema
        )

    def digests(self, plain: pa.RecordBatch) -> Hashes:
        """Return a hash of all that is compared of each row, but its id."""
        left_out = {"id"} | ({"label", "split"} - self.knows)
        left_out |= set() if self.places else {"uri", "bytes", "mtime"}
        names = [name for name in self.schema.names if name not in left_out]
        return hash_rows(plain.column(name) for name in names)


def differ(one: pa.Array, other: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Tell which cells of two columns of one type differ."""
    return hash_rows([one]) != hash_rows([other])
