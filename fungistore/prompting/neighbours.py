"""The nearest training rows of queries, by cosine, block after block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from fungistore.errors import UsageError
from fungistore.evaluation.neighbour_count import neighbours_used
from fungistore.evaluation.task import TaskRows
from fungistore.machine.context import Context
from fungistore.matrices.blocks import FeatureMatrix, Vectors, normalize
from fungistore.matrices.neighbours import nearest
from fungistore.store.samples import Rows


@dataclass(frozen=True)
class Near:
    """The nearest training rows of some queries.

    Attributes:
        queries: [q] row numbers.
        rows: [q, k] row numbers of their neighbours, nearest first, ties by row.
        similarities: [q, k] cosines.
    """

    queries: Rows
    rows: NDArray[np.int64]
    similarities: NDArray[np.float64]


def at_most(k: int, train: Rows, queries: Rows, context: Context) -> int:
    """Return how many neighbours every query has, up to k; fewer than k are said.

    Raises:
        UsageError: there are none.
    """
    most = len(train) - int(np.isin(queries, train).any())
    if most < 1:
        raise UsageError(
            "no query has another training row to learn from",
            expected="two training rows with a label and usable features, or more",
            found=len(train),
        )
    return neighbours_used(k, most, context, "all are examples")


def near(
    matrix: FeatureMatrix,
    queries: Rows,
    train: Rows,
    k: int,
    context: Context,
    reduce: Callable[[Vectors], Vectors] = lambda vectors: vectors,
) -> Iterator[Near]:
    """Yield the k nearest training rows of each query, exactly; none is its own example.

    Args:
        matrix: the features.
        queries: ascending usable rows.
        train: the same, of which there are k besides any query.
        k: neighbours.
        context: its stop is asked between blocks.
        reduce: a PCA.
    """

    def transform(vectors: Vectors) -> Vectors:
        vectors = reduce(vectors)
        normalize(vectors)
        return vectors

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    database = TaskRows(matrix, train, transform)
    spare = int(np.isin(queries, train).any())
    for numbers, vectors in matrix.stream(queries):
        context.stop_if_asked()
        found = nearest(transform(vectors), database, k + spare, device)
        left_out = found.rows == numbers[:, None]
        if spare:
            left_out[~left_out.any(axis=1), -1] = True
        rows, distances = (
            values[~left_out].reshape(len(numbers), k) for values in (found.rows, found.distances)
        )
        yield Near(numbers, rows, 1 - distances**2 / 2)
