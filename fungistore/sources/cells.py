"""The columns of a table that are kept with its samples: their types, and their cells' values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fungistore.sources.sample import CellType

ARROW: Mapping[CellType, pa.DataType] = MappingProxyType(
    {
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "text": pa.string(),
        "empty": pa.null(),
    }
)
# How cells of a CSV file are spelled that are numbers or truth values; 007 is a name. The first
# type that all cells of a column have is the column's. Whole numbers that a type would round, as
# a fraction's does beyond 15 digits, are no numbers of it: they may be names of 20 digits.
_SPELLED: Mapping[CellType, str] = MappingProxyType(
    {
        "bool": r"^(true|false|True|False|TRUE|FALSE)$",
        "int": r"^(0|-?[1-9][0-9]{0,17})$",
        "float": r"^-?((0|[1-9][0-9]{0,14})|(0|[1-9][0-9]*)(\.[0-9]*|(\.[0-9]*)?"
        r"[eE][-+]?0*([0-2]?[0-9]{1,2}|30[0-7])))$",
    }
)


def cell_type(kind: pa.DataType) -> CellType | None:
    """Return what cells of an Arrow type are kept as; None for bytes, lists, tables and spans.

    A span of time, as text, would be a number without its unit.
    """
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind):
        return "int" if kind != pa.uint64() else "text"
    if pa.types.is_floating(kind):
        return "float"
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_text = is_text or pa.types.is_string_view(kind) or pa.types.is_decimal(kind)
    is_time = pa.types.is_temporal(kind) and not _is_span(kind)
    if pa.types.is_null(kind):
        return "empty"
    return "text" if is_text or is_time else None


def _is_span(kind: pa.DataType) -> bool:
    return bool(pa.types.is_duration(kind) or pa.types.is_interval(kind))


def types_of_texts(
    batches: Iterable[pa.RecordBatch], names: Iterable[str], decimal: str = "."
) -> dict[str, CellType]:
    """Return the types of some columns of bytes, from all of their cells that are not empty.

    Columns that are not UTF-8 have none. `decimal` may stand for the point of a number.
    """
    possible: dict[str, list[CellType]] = {name: list(_SPELLED) for name in names}
    has_cells: set[str] = set()
    for batch in batches:
        for name, kinds in list(possible.items()):
            try:
                filled = _filled(batch.column(name).cast(pa.string()))
            except pa.ArrowInvalid:
                del possible[name]
                continue
            if not len(filled):
                continue
            has_cells.add(name)
            filled = with_point(filled, decimal)
            for kind in list(kinds):
                if not pc.all(pc.match_substring_regex(filled, _SPELLED[kind])).as_py():
                    kinds.remove(kind)
    return {
        name: (kinds[0] if kinds else "text") if name in has_cells else "empty"
        for name, kinds in possible.items()
    }


def with_point(column: pa.Array, decimal: str) -> pa.Array:
    """Return text with a point in the place of another mark."""
    return column if decimal == "." else pc.replace_substring(column, decimal, ".")


def cell_column(column: pa.Array, kind: CellType, decimal: str = ".") -> pa.Array:
    """Return a column of a table as cells of a type; empty text is none."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if kind == "empty":
        return pa.nulls(len(column))
    if kind == "text":
        column = column.cast(pa.string())
    if pa.types.is_string(column.type):
        column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
        column = with_point(column, decimal) if kind == "float" else column
    return column.cast(ARROW[kind])


def joined_type(one: CellType, other: CellType) -> CellType:
    """Return the type that holds the cells of both."""
    if one == other or other == "empty":
        return one
    if one == "empty":
        return other
    return "float" if {one, other} == {"int", "float"} else "text"


def cells_as(column: pa.Array, kind: CellType) -> pa.Array:
    """Return cells as those of a type that holds them."""
    if column.type == ARROW[kind]:
        return column
    if kind == "empty":
        return pa.nulls(len(column))
    if kind != "text" or pa.types.is_null(column.type):
        return column.cast(ARROW[kind], safe=False)
    words = column.dictionary_encode()
    texts = [spelled(cell) for cell in words.dictionary.to_pylist()]
    return pa.array(texts, pa.string()).take(words.indices)


def spelled(cell: Any) -> str:
    """Return a cell as text that is the same in all types that hold it."""
    if cell is None or isinstance(cell, str):
        return cell or ""
    if isinstance(cell, bool):
        return str(cell).lower()
    return str(int(cell)) if cell == cell // 1 and abs(cell) < 1 << 53 else repr(cell)


def _filled(column: pa.Array) -> pa.Array:
    column = pc.utf8_trim_whitespace(column)
    return column.filter(pc.fill_null(pc.not_equal(column, ""), False))
