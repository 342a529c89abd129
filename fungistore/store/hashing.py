"""64-bit hashes of the cells of Arrow columns, without a Python object a cell.

They live as long as one listing: nothing stores them. Equal cells have equal hashes whatever batch
they are in; a text's words of eight bytes are mixed in one after the other, each by a bijection, so
texts of one length that differ in one word never meet, and others by chance alone (once in 4,000
tables of 100 million).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

WORD = 8
NOTHING = np.uint64(0x9E3779B97F4A7C15)  # of an empty cell; also added, since zero mixes to zero
# the multipliers of splitmix64 (Steele, Lea and Flood, 2014), which spread every bit
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
# the first so many bytes of a little-endian word
MASKS = np.array([(1 << 8 * count) - 1 for count in range(WORD + 1)], np.uint64)


def hash_column(column: pa.Array) -> Hashes:
    """Return the hashes of a column's cells: texts, bytes, numbers, times or truth values."""
    if pa.types.is_null(column.type) or not len(column):
        return np.full(len(column), NOTHING)
    if pa.types.is_dictionary(column.type):
        return _hash_dictionary(column)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int64())
    if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
        hashes = _hash_texts(column)
    else:
        wide = pa.float64() if pa.types.is_floating(column.type) else pa.int64()
        values = column.cast(wide).fill_null(0).to_numpy(zero_copy_only=False)
        hashes = _mixed(values.view(np.uint64) + NOTHING)
    if column.null_count:
        hashes[column.is_null().to_numpy(zero_copy_only=False)] = NOTHING
    return hashes


def hash_rows(columns: Iterable[pa.Array]) -> Hashes:
    """Return one hash a row of several columns, of at least one."""
    first, *others = map(hash_column, columns)
    for other in others:
        first = _mixed(first * FIRST + other)
    return first


def _hash_dictionary(column: pa.DictionaryArray) -> Hashes:
    hashes = np.append(hash_column(column.dictionary), NOTHING)
    codes = column.indices.fill_null(len(hashes) - 1).to_numpy(zero_copy_only=False)
    return hashes[codes]


def _hash_texts(column: pa.Array) -> Hashes:
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    ends = ends.astype(np.int64)
    size = int(ends[-1] - ends[0])
    padded = np.zeros(size + WORD, np.uint8)
    if size:
        padded[:size] = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
    words = np.ndarray(size + 1, "<u8", padded, strides=(1,))  # the one that starts at each byte
    left = np.diff(ends)
    hashes = _mixed(left.astype(np.uint64) + NOTHING)
    rows = np.flatnonzero(left)
    at, left = ends[rows] - ends[0], left[rows]
    while len(rows):
        word = words[at] & MASKS[np.minimum(left, WORD)]
        hashes[rows] = _mixed(hashes[rows] ^ word)
        is_longer = left > WORD
        rows, at, left = rows[is_longer], at[is_longer] + WORD, left[is_longer] - WORD
    return hashes


def _mixed(values: Hashes) -> Hashes:
    """Return other numbers, one for each: a bijection."""
    values = values * FIRST
    values ^= values >> np.uint64(31)
    values *= SECOND
    values ^= values >> np.uint64(29)
    return values
