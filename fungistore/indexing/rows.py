"""The rows that an index is made from: which are there, their content, and their vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from fungistore.matrices.blocks import STREAM_BYTES, FeatureMatrix, Vectors
from fungistore.store.samples import Rows


def committed_rows(matrix: FeatureMatrix) -> int:
    """Return how many rows, from the first on, every block has: rows beyond a gap come later."""
    least = matrix.rows
    for array in matrix.arrays:
        commits, rows = array.commits(), 0
        for unit in range(array.units):
            if unit not in commits:
                break
            rows += commits[unit].rows
            if commits[unit].rows < array.unit_rows:
                break
        least = min(least, rows)
    return least


def content_digest(matrix: FeatureMatrix, rows: int) -> str:
    """Return a digest of the checksums of the whole units among the first rows."""
    state = hashlib.blake2b(digest_size=16)
    for array in matrix.arrays:
        for unit in range(rows // array.unit_rows):
            commit = array.commit(unit)
            state.update(commit.checksum.encode() if commit else b"-")
    return state.hexdigest()


def usable_blocks(
    matrix: FeatureMatrix, start: int, stop: int
) -> Iterator[tuple[int, Rows, Vectors]]:
    """Yield (end, row numbers [n], vectors [n, d]) of rows [start, stop), whole units at a time.

    Every block ends at `end`; of the rows before it, those that cannot be used are left out.
    """
    units = max(1, STREAM_BYTES // (4 * matrix.dim * matrix.unit_rows))
    step = units * matrix.unit_rows
    while start < stop:
        end = min(stop, (start // step + 1) * step)
        vectors = matrix.read(start, end)
        usable = np.flatnonzero(~np.isnan(vectors[:, 0]))
        yield end, start + usable, vectors if len(usable) == len(vectors) else vectors[usable]
        start = end
