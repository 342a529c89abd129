"""The columns of a manifest that say which part of a file a sample is, in seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from fungistore.errors import UsageError
from fungistore.location import LATEST, Span, span_uri, split_span
from fungistore.sources.headers import plain_header

START, END = "start", "end"
_NAMES = {
    START: ("start", "starttime", "startsec", "startseconds", "starts"),
    END: ("end", "endtime", "endsec", "endseconds", "ends"),
}


def span_columns(names: Iterable[str]) -> dict[str, str]:
    """Return the columns that have starts and ends, of those that a table has."""
    plain = {plain_header(name): name for name in reversed([*names])}
    found = ((side, next((plain[n] for n in _NAMES[side] if n in plain), None)) for side in _NAMES)
    return {side: name for side, name in found if name}


def spans_remark(columns: Mapping[str, str]) -> str:
    """Return what the user should know, where samples are parts of files."""
    listed = " to ".join(map(repr, columns.values()))
    return f"a sample is the part of its file in {listed}, in seconds"


def not_of_seconds(path: str, column: str) -> UsageError:
    """Return what to say of a column of starts or ends that has neither text nor numbers."""
    return _odd("a column of starts or ends has no numbers", f"{path}, column {column!r}")


def with_spans(
    uris: pa.Array, columns: Mapping[str, str], cells: Mapping[str, pa.Array], path: str, first: int
) -> pa.Array:
    """Return the uris of the spans of some files; one that has a span already keeps it.

    Args:
        uris: of the files; nulls stay.
        columns: what `span_columns` has found.
        cells: of those columns, by their names: numbers, or text that may be some.
        path: of the table.
        first: the number of rows before these.

    Raises:
        UsageError: a cell is no number of seconds, or an end is not behind its start.
    """
    sides = {side: cells[columns[side]].to_pylist() for side in columns}
    empty = [None] * len(uris)
    starts, ends = sides.get(START, empty), sides.get(END, empty)
    spelled = []
    for place, (uri, *times) in enumerate(zip(uris.to_pylist(), starts, ends, strict=True)):
        where = f"{path}, row {first + place + 1}"
        start, end = (_seconds(time, where) for time in times)
        if end is not None and end <= (start or 0.0):
            raise _odd(f"a span ends at {end:g} s, where it begins or before", where)
        is_bare = uri is not None and split_span(uri)[1] is None
        spelled.append(span_uri(uri, Span(start, end)) if is_bare else uri)
    return pa.array(spelled, pa.string())


def _seconds(cell: Any, where: str) -> float | None:
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return None
    try:
        seconds = math.nan if isinstance(cell, bool) else float(cell)
    except ValueError:
        raise _odd(f"{cell!r} is no number of seconds", where) from None
    if math.isnan(seconds) and isinstance(cell, float):  # as pandas has empty cells
        return None
    if not 0 <= seconds <= LATEST:
        raise _odd(f"a file has no second {cell!r}", where)
    return seconds


def _odd(what: str, where: str) -> UsageError:
    return UsageError(
        what,
        where=where,
        expected="seconds from the beginning of the file, or nothing",
        hint="mend the cell; columns `start` and `end` of something else have to be renamed",
    )
