"""The columns of a manifest in the sample table, beside those that every sample has.

They are in the parts' files under names that cannot meet the table's own. Each part has those of
the source that it came from, in the types of that time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa

from fungistore.sources.batches import CELL
from fungistore.sources.cells import ARROW, cell_type, cells_as, joined_type
from fungistore.sources.sample import CellType


def with_columns(schema: pa.Schema, columns: Mapping[str, CellType]) -> pa.Schema:
    """Return a part's schema with further columns."""
    return pa.schema([*schema, *((CELL + name, ARROW[kind]) for name, kind in columns.items())])


def columns_in(schema: pa.Schema) -> dict[str, CellType]:
    """Return the further columns that a part has."""
    return {
        field.name.removeprefix(CELL): cell_type(field.type) or "text"
        for field in schema
        if field.name.startswith(CELL)
    }


def joined_columns(parts: Iterable[Mapping[str, CellType]]) -> dict[str, CellType]:
    """Return all columns of some parts, each in a type that holds what every part has."""
    joined: dict[str, CellType] = {}
    for columns in parts:
        for name, kind in columns.items():
            joined[name] = joined_type(joined.get(name, kind), kind)
    return joined


def cells_in(batch: pa.RecordBatch, kinds: Mapping[str, CellType]) -> list[pa.Array]:
    """Return some columns of a batch as cells of some types; those that it lacks are empty."""
    names = set(batch.schema.names)
    return [
        cells_as(batch.column(CELL + name), kind)
        if CELL + name in names
        else pa.nulls(len(batch), ARROW[kind])
        for name, kind in kinds.items()
    ]
