"""The rows that an index is made from: which of them are there, and their vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fungistore.matrices.blocks import STREAM_BYTES, FeatureMatrix, Vectors
from fungistore.store.contents import (
    Commits,
    Content,
    Counts,
    committed_rows,
    content_of,
)
from fungistore.store.coverage import Mask
from fungistore.store.removed import left_out
from fungistore.store.samples import Rows


@dataclass(frozen=True)
class Available:
    """The rows that there are, as one moment's commit records have them.

    Attributes:
        matrix: the features.
        commits: the records of each array, by its name.
        counts: rows of each unit that every block has; of the others, some units may come later,
            and some never, as where an import knows no vector of them.
    """

    matrix: FeatureMatrix
    commits: Mapping[str, Commits]
    counts: Counts

    @classmethod
    def now(cls, matrix: FeatureMatrix) -> Available:
        """Read the records."""
        units = -(-matrix.rows // matrix.unit_rows)
        commits = {array.name: matrix.records.of(array.name) for array in matrix.arrays}
        found = [committed_rows(array, commits[array.name])[:units] for array in matrix.arrays]
        return cls(matrix, commits, np.min(found, axis=0))

    @property
    def total(self) -> int:
        """How many rows there are."""
        return int(self.counts.sum())

    def contents(self, done: Counts) -> dict[str, Content]:
        """Return what the units hold of which some rows are done."""
        found = {}
        for array in self.matrix.arrays:
            used = {u: commit for u, commit in self.commits[array.name].items() if _at(done, u)}
            found[array.name] = content_of(array, commits=used)
        return found

    def has(self, rows: Rows) -> Mask:
        """Tell which rows are there: a chunk without a record, or beyond its rows, is nothing."""
        units, places = np.divmod(rows, self.matrix.unit_rows)
        return places < np.append(self.counts, 0)[np.minimum(units, len(self.counts))]


@dataclass(frozen=True)
class NewBlock:
    """Rows of a stretch that are to be added.

    Attributes:
        stretch: of the sample table.
        considered: how many rows they are.
        rows, vectors: those of them that can be used.
        removed: those that could be, but for their file, which is gone from the source.
    """

    stretch: range
    considered: int
    rows: Rows
    vectors: Vectors
    removed: Rows


@dataclass(frozen=True)
class NewRows:
    """The rows that are there and not done, in blocks of whole chunks.

    Attributes:
        available: what is there.
        done: rows of each unit that are.
        gone: rows whose file is gone from the source.
    """

    available: Available
    done: Counts
    gone: Rows

    @classmethod
    def of(cls, available: Available, done: Counts) -> NewRows:
        """Take what the store's sample table says of files that are gone."""
        return cls(available, done, np.asarray(left_out(available.matrix.store), np.int64))

    def blocks(self) -> list[range]:
        """Return the stretch of each block: some whole chunks."""
        matrix, counts = self.available.matrix, self.available.counts
        step = max(1, STREAM_BYTES // (4 * matrix.dim * matrix.chunk_rows)) * matrix.chunk_rows
        missing = np.flatnonzero(counts > self.done[: len(counts)])
        starts = missing * matrix.unit_rows
        firsts = (starts + self.done[missing]) // step
        lasts = (starts + counts[missing] - 1) // step
        pairs = zip(firsts.tolist(), lasts.tolist(), strict=True)
        numbers = sorted({number for first, last in pairs for number in range(first, last + 1)})
        return [range(n * step, min((n + 1) * step, matrix.rows)) for n in numbers]

    def finish(self, stretch: range, done: Counts) -> None:
        """Count the rows of a stretch among those of each unit that are done."""
        size = self.available.matrix.unit_rows
        units = np.arange(stretch.start // size, -(-stretch.stop // size))
        there = np.minimum(self.available.counts[units], stretch.stop - units * size)
        done[units] = np.maximum(done[units], there)

    def read(self, stretch: range) -> NewBlock:
        """Return the new rows of one of the blocks."""
        matrix, counts = self.available.matrix, self.available.counts
        rows = np.arange(stretch.start, stretch.stop)
        units, places = np.divmod(rows, matrix.unit_rows)
        rows = rows[(places >= self.done[units]) & (places < counts[units])]
        vectors = matrix.read(int(rows[0]), int(rows[-1]) + 1)
        if len(rows) < len(vectors):
            vectors = vectors[rows - rows[0]]
        finite = ~np.isnan(vectors[:, 0])
        usable = finite & ~np.isin(rows, self.gone, assume_unique=True)
        all_usable = bool(usable.all())
        return NewBlock(
            stretch,
            len(rows),
            rows if all_usable else rows[usable],
            vectors if all_usable else vectors[usable],
            rows[finite & ~usable],
        )


def _at(counts: Counts, unit: int) -> int:
    return int(counts[unit]) if unit < len(counts) else 0
