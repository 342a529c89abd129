"""The nearest patches of a bank: exactly, block by block, or by a faiss index of any kind."""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

from fungistore.matrices.blocks import Vectors

BLOCK_BYTES = 128_000_000  # of the bank in float32, at once

Ids = NDArray[np.int64]


def exact(bank: NDArray[np.floating], queries: Vectors, k: int) -> tuple[Vectors, Ids]:
    """Return the cosines [q, k] and places [q, k] of the nearest of unit vectors; -1 for none.

    The bank stays in the type that it has: as float32 it would be twice as large.
    """
    step = max(1, BLOCK_BYTES // (4 * bank.shape[1]))
    best: Vectors = np.full((len(queries), 0), -np.inf, np.float32)
    ids: Ids = np.zeros((len(queries), 0), np.int64)
    queries = np.ascontiguousarray(queries, np.float32)
    for start in range(0, len(bank), step):
        block = np.ascontiguousarray(bank[start : start + step], np.float32)
        count = min(k, len(block))
        cosines, found = faiss.knn(queries, block, count, metric=faiss.METRIC_INNER_PRODUCT)
        best, ids = np.hstack([best, cosines]), np.hstack([ids, found + start])
        order = np.argsort(-best, axis=1, kind="stable")[:, :k]
        best, ids = np.take_along_axis(best, order, 1), np.take_along_axis(ids, order, 1)
    missing = k - ids.shape[1]
    if missing > 0:
        best = np.pad(best, ((0, 0), (0, missing)), constant_values=-np.inf)
        ids = np.pad(ids, ((0, 0), (0, missing)), constant_values=-1)
    return best, ids
