"""The columns of a manifest in the sample table, beside those that every sample has.

They are in the parts' files under names that cannot meet the table's own. Each part has those of
the source that it came from, in the types of that time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fungistore.sources.cells import ARROW, cell_type, joined_type, spelled
from fungistore.sources.sample import Cell, CellType

PREFIX = "column."


def with_columns(schema: pa.Schema, columns: Mapping[str, CellType]) -> pa.Schema:
    """Return a part's schema with further columns."""
    return pa.schema([*schema, *((PREFIX + name, ARROW[kind]) for name, kind in columns.items())])


def columns_in(schema: pa.Schema) -> dict[str, CellType]:
    """Return the further columns that a part has."""
    return {
        field.name.removeprefix(PREFIX): cell_type(field.type) or "text"
        for field in schema
        if field.name.startswith(PREFIX)
    }


def joined_columns(parts: Iterable[Mapping[str, CellType]]) -> dict[str, CellType]:
    """Return all columns of some parts, each in a type that holds what every part has."""
    joined: dict[str, CellType] = {}
    for columns in parts:
        for name, kind in columns.items():
            joined[name] = joined_type(joined.get(name, kind), kind)
    return joined


def hash_cells(rows: Iterable[Sequence[Cell]]) -> NDArray[np.uint64]:
    """Return 64-bit hashes of samples' cells, which do not depend on the types that hold them."""
    return np.array([_hash(cells) for cells in rows], np.uint64)


def _hash(cells: Sequence[Any]) -> int:
    text = "\0".join(map(spelled, cells)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
