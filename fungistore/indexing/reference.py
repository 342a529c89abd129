"""Exact neighbours of a few held-out queries, kept up to date as vectors are added.

They are found in the same pass that fills the index, block by block, and are stored with it; so
recall costs no second pass, and growing an index reads the new rows alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import faiss
import numpy as np
from safetensors.numpy import load_file, save

from fungistore.indexing.coding import one_thread, tile_rows
from fungistore.indexing.options import IndexMetric
from fungistore.indexing.record import Recall
from fungistore.indexing.vectors import VectorIndex, distances, faiss_metric
from fungistore.matrices.blocks import Vectors, normalize
from fungistore.matrices.products import of_one_thread_each, steps
from fungistore.store.disk_errors import damage_explained
from fungistore.store.samples import Rows

RECALL_K = 10
KEPT = 64  # neighbours of a query: as many may be as near as the tenth
# Two float32 ways to a distance of unit vectors differ by less than this.
TIED = 2.0**-18
RECALL_QUERIES = 256  # 2,560 neighbours: a standard error of 1 % at a recall of 0.9, or less
NONE = -1
TILES = 4  # of those that vectors are coded in: the few queries make larger ones quicker
# Two doublings of the effort that gain less than this end the search for a better one.
LEAST_GAIN = 0.002


@dataclass(frozen=True)
class Near:
    """Neighbours of some queries among some vectors.

    Attributes:
        rows: of them, nearest first, the query's own left out [q, m]; -1 where none.
        distances: of these [q, m], infinite where there is none.
    """

    rows: Rows
    distances: Vectors

    @classmethod
    def none(cls, queries: int, count: int) -> Near:
        """Return what is known of so many neighbours of each query before the first is."""
        shape = (queries, count)
        return cls(np.full(shape, NONE, np.int64), np.full(shape, np.inf, np.float32))

    @classmethod
    def merged(cls, parts: Sequence[Near], kept: int) -> Near:
        """Return the nearest of all; of equally near ones, those of the earlier part."""
        rows = np.hstack([part.rows for part in parts])
        far = np.hstack([part.distances for part in parts])
        order = np.argsort(far, axis=1, kind="stable")[:, :kept]
        return cls(np.take_along_axis(rows, order, axis=1), np.take_along_axis(far, order, axis=1))


@dataclass
class Reference:
    """Queries and their exact nearest neighbours among the vectors that were added so far.

    Attributes:
        rows: row numbers of the queries [q].
        vectors: the queries [q, d].
        neighbours: rows of their nearest [q, KEPT], the query's own left out; -1 where none.
        distances: of these [q, KEPT], infinite where there is none.
    """

    rows: Rows
    vectors: Vectors
    neighbours: Rows
    distances: Vectors

    @classmethod
    def of(cls, rows: Rows, vectors: Vectors) -> Self:
        """Return queries without neighbours yet."""
        none = Near.none(len(rows), KEPT)
        return cls(rows, vectors, none.rows, none.distances)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote.

        Raises:
            StoreError: the file is damaged.
        """
        with damage_explained("a file of an index is damaged", path):
            return cls(**load_file(path))

    def write(self, path: Path) -> None:
        """Write all four arrays.

        Raises:
            OSError: the file cannot be written, as on a full disk.
        """
        names = ("rows", "vectors", "neighbours", "distances")
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in names}
        path.write_bytes(save(arrays))  # safetensors' own files raise no OSError

    def update(self, vectors: Vectors, rows: Rows, metric: IndexMetric) -> None:
        """Merge the neighbours among some more vectors [n, d], which are left as they are."""
        if len(rows) and len(self.rows):
            self.take_in(self.near(vectors, rows, metric))

    def near(self, vectors: Vectors, rows: Rows, metric: IndexMetric) -> Near:
        """Return the neighbours among vectors [n, d], whatever is known already.

        They are looked for in tiles of one thread each: no number of threads changes a bit.
        """
        queries, kept = self.vectors, self.neighbours.shape[1]
        if metric == "cosine":
            queries = queries.copy()
            normalize(queries)
        tiles = steps(len(rows), TILES * tile_rows(vectors.shape[1]))
        found: dict[int, Near] = {}

        def fill(tile: slice) -> None:
            block = vectors[tile]
            if metric == "cosine":
                block = block.copy()
                normalize(block)
            count = min(kept + 1, len(block))  # one more: the query itself may be among them
            scores, at = faiss.knn(queries, block, count, metric=faiss_metric(metric))
            near, far = rows[tile][at], distances(scores, metric)
            far[near == self.rows[:, None]] = np.inf
            found[tile.start] = Near(np.where(np.isinf(far), NONE, near), far)

        of_one_thread_each(fill, tiles, one_thread)
        none = Near.none(len(self.rows), 0)
        return Near.merged([none, *(found[tile.start] for tile in tiles)], kept)

    def take_in(self, near: Near) -> None:
        """Merge what `near` has found among some more vectors."""
        known = Near(self.neighbours, self.distances)
        merged = Near.merged([known, near], self.neighbours.shape[1])
        self.neighbours, self.distances = merged.rows, merged.distances

    def recall(self, index: VectorIndex) -> Recall | None:
        """Measure how many of the exact neighbours a search finds; None without queries.

        A row that is as near as the k-th exact neighbour is as good: of equal images, any will do.
        """
        known = (self.neighbours[:, :RECALL_K] != NONE).sum(axis=1)
        if not known.any():
            return None
        last = np.take_along_axis(self.distances, np.maximum(known - 1, 0)[:, None], axis=1)
        limit = _as_near(last, self.vectors, index.metric)
        far, rows = index.search(self.vectors, RECALL_K + 1)
        is_other = (rows != self.rows[:, None]) & (rows != NONE)
        # the own row, once removed, leaves k; where it was not found, the last one is too many
        order = np.argsort(~is_other, axis=1, kind="stable")[:, :RECALL_K]
        rows, far, is_other = (np.take_along_axis(a, order, axis=1) for a in (rows, far, is_other))
        near = np.where(self.distances <= limit, self.neighbours, NONE)
        is_hit = (rows[:, :, None] == near[:, None, :]).any(axis=2)
        if index.measures_exactly:
            is_hit |= far <= limit
        hits = np.minimum((is_hit & is_other).sum(axis=1), known)
        return Recall(RECALL_K, float(hits.sum() / known.sum()), len(self.rows))


def _as_near(distances: Vectors, queries: Vectors, metric: IndexMetric) -> Vectors:
    """Return the distances [q, 1] up to which rows count as being as near, rounding included."""
    if metric == "cosine":
        return distances + TIED
    squared = np.einsum("qd,qd->q", queries, queries, dtype=np.float64)[:, None]
    return np.sqrt(distances**2 + 2 * TIED * squared).astype(np.float32)


def settle_effort(
    index: VectorIndex, reference: Reference, target: float
) -> tuple[dict[str, int], Recall | None]:
    """Raise the effort of a search until the recall is reached, or gains no more.

    Returns:
        The parameter that was settled on, {} where the kind has none, and the recall with it.
    """
    name, best, best_value = index.effort_name, reference.recall(index), 0
    if name is None or best is None:
        return {}, best
    best, idle = None, 0
    for value in index.efforts():
        index.set_effort(value)
        recall = reference.recall(index)
        assert recall is not None
        idle = idle + 1 if best is not None and recall.value < best.value + LEAST_GAIN else 0
        if best is None or recall.value > best.value:
            best, best_value = recall, value
        if best.value >= target or idle == 2:
            break
    index.set_effort(best_value)
    return {name: best_value}, best
