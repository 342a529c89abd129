"""Tables of one JSON object a line (.jsonl, .ndjson), whose keys are the columns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from fungistore.errors import UsageError
from fungistore.modalities.reading import reason_of
from fungistore.sources.cells import ARROW, joined_type, spelled
from fungistore.sources.long_cells import cut_json_lines
from fungistore.sources.sample import CellType
from fungistore.text import UTF_8, byte_pieces

SUFFIXES = (".jsonl", ".ndjson")
ROWS_AT_ONCE = 1024
_INT64 = range(-(1 << 63), 1 << 63)
_LONE = re.compile("[\ud800-\udfff]")  # halves of pairs, which no text is made of
_REPLACEMENT = "\ufffd"
_INVALID = "surrogateescape"

Row = dict[str, Any]


class JsonLines:
    """The columns of such a file: all keys of all of its lines; what a line lacks is empty.

    Half a surrogate pair, as programs leave it that cut a text inside an emoji, becomes U+FFFD.
    Bytes that are not UTF-8 stay in the cell that has them, which is then no text.

    Args:
        path: the file.

    Raises while it is read:
        UsageError: a line is no JSON object; the error says which one.
        OSError, UnicodeError: the file cannot be read.
    """

    decimal = "."
    has_blanks = False

    def __init__(self, path: str | Path) -> None:
        self.path = path

    @cached_property
    def _types(self) -> dict[str, CellType | None]:
        """The type of each column, None of lists and objects."""
        types: dict[str, CellType | None] = {}
        for row in self._rows():
            for name, cell in row.items():
                known, kind = types.get(name, "empty"), _type_of(cell)
                types[name] = joined_type(known, kind) if known and kind else None
        return types

    @property
    def names(self) -> list[str]:
        """The names of the columns, in the order in which they occur."""
        return list(self._types)

    def type_of(self, name: str) -> pa.DataType:
        """Return the type of a column."""
        kind = self._types[name]
        return pa.list_(pa.null()) if kind is None else ARROW[kind]

    def batches(self, types: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        """Yield some columns, as their own types are; text is bytes where these are asked for."""
        own = {name: self.type_of(name) for name in types}
        rows: list[Row] = []
        for row in self._rows():
            rows.append(row)
            if len(rows) == ROWS_AT_ONCE:
                yield _batch(rows, own, types)
                rows = []
        if rows:
            yield _batch(rows, own, types)

    def _rows(self) -> Iterator[Row]:
        with open(self.path, "rb") as file:
            for number, line in enumerate(cut_json_lines(byte_pieces(file)), start=1):
                if line.strip():
                    yield self._parsed(line, number)

    def _parsed(self, line: bytes, number: int) -> Row:
        try:
            text, is_odd = line.decode(), False
        except UnicodeDecodeError:
            text, is_odd = line.decode(UTF_8, _INVALID), True
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            found = f"{error.msg}, at character {error.colno}"
            raise self._broken(number, found) from error
        except (ValueError, RecursionError) as error:
            raise self._broken(number, reason_of(error)) from error
        if not isinstance(row, dict):
            raise self._broken(number, f"a {type(row).__name__}")
        if is_odd or "\\u" not in text:
            return row
        return {_whole(name): _whole(cell) for name, cell in row.items()}

    def _broken(self, number: int, found: str) -> UsageError:
        return UsageError(
            "a line of the manifest is no JSON object",
            where=f"{self.path}, line {number}",
            expected='an object on each line, such as {"text": "...", "label": "..."}',
            found=found,
            hint=f"mend the line, or leave it out: sed '{number}d' OLD > NEW",
        )


def _type_of(cell: object) -> CellType | None:
    if cell is None:
        return "empty"
    if isinstance(cell, bool):
        return "bool"
    if isinstance(cell, int):
        return "int" if cell in _INT64 else "text"
    if isinstance(cell, float):
        return "float"
    return "text" if isinstance(cell, str) else None


def _whole(value: Any) -> Any:
    return _LONE.sub(_REPLACEMENT, value) if isinstance(value, str) else value


def _batch(
    rows: list[Row], own: Mapping[str, pa.DataType], asked: Mapping[str, pa.DataType]
) -> pa.RecordBatch:
    columns = []
    for name, kind in own.items():
        cells = [row.get(name) for row in rows]
        if pa.types.is_nested(kind):
            columns.append(pa.nulls(len(rows), kind))
        elif not pa.types.is_string(kind):
            columns.append(pa.array(cells, kind))
        else:
            texts = [None if cell is None else _spelled(cell) for cell in cells]
            is_bytes = pa.types.is_binary(asked[name])
            known = [text if text is None or not is_bytes else _bytes(text) for text in texts]
            columns.append(pa.array(known, pa.binary() if is_bytes else kind))
    return pa.RecordBatch.from_arrays(columns, list(own))


def _spelled(cell: Any) -> str:
    return str(cell) if isinstance(cell, int) and cell not in _INT64 else spelled(cell)


def _bytes(text: str) -> bytes:
    try:
        return text.encode(UTF_8, _INVALID)
    except UnicodeEncodeError:
        return _LONE.sub(_REPLACEMENT, text).encode()
