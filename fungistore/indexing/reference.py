"""Exact neighbours of a few held-out queries, kept up to date as vectors are added.

They are found in the same pass that fills the index, block by block, and are stored with it; so
recall costs no second pass, and growing an index reads the new rows alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import faiss
import numpy as np
from safetensors.numpy import load_file, save

from fungistore.indexing.options import IndexMetric
from fungistore.indexing.record import Recall
from fungistore.indexing.vectors import VectorIndex, distances, faiss_metric
from fungistore.matrices.blocks import Vectors, normalize
from fungistore.store.disk_errors import damage_explained
from fungistore.store.samples import Rows

RECALL_K = 10
KEPT = 64  # neighbours of a query: as many may be as near as the tenth
# Two float32 ways to a distance of unit vectors differ by less than this.
TIED = 2.0**-18
RECALL_QUERIES = 256  # 2,560 neighbours: a standard error of 1 % at a recall of 0.9, or less
NONE = -1
# Two doublings of the effort that gain less than this end the search for a better one.
LEAST_GAIN = 0.002


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
        shape = (len(rows), KEPT)
        return cls(
            rows, vectors, np.full(shape, NONE, np.int64), np.full(shape, np.inf, np.float32)
        )

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
        if not len(rows) or not len(self.rows):
            return
        queries, block = self.vectors, vectors
        if metric == "cosine":
            queries, block = queries.copy(), block.copy()
            normalize(queries)
            normalize(block)
        kept = self.neighbours.shape[1]
        count = min(kept + 1, len(rows))  # one more: the query itself may be among them
        scores, at = faiss.knn(queries, block, count, metric=faiss_metric(metric))
        found, far = rows[at], distances(scores, metric)
        far[found == self.rows[:, None]] = np.inf
        found = np.where(np.isinf(far), NONE, found)
        merged, merged_far = np.hstack([self.neighbours, found]), np.hstack([self.distances, far])
        order = np.argsort(merged_far, axis=1, kind="stable")[:, :kept]
        self.neighbours = np.take_along_axis(merged, order, axis=1)
        self.distances = np.take_along_axis(merged_far, order, axis=1)

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
