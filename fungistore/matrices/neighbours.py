"""Exact nearest neighbours at the speed of a float32 matrix product.

A float32 product finds candidates; its rounding error is bounded, so where the k-th and the next
candidate are further apart than that bound the set of neighbours is proven. The pairs of the
others are measured again in float64. Where there are more near ties than candidates, as among
images of one scene, a float64 product of those queries with the whole database finds the few that
are. The result is that of float64 arithmetic throughout.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fungistore.machine.precision import float32_products
from fungistore.matrices.blocks import Vectors
from fungistore.quantities import counted
from fungistore.store.samples import Rows

GROUP = 64  # scores of which only the largest is looked at first
SPARE = 12  # candidates kept beyond k, so that near ties can be settled
TILE_SCORES = 1 << 24  # scores computed at a time: 64 MB
QUERY_BYTES = 256_000_000  # queries held at a time; more of them read the database again
PAIRS_AT_ONCE = 1 << 14  # measured again in float64
EXACT_ROWS = 1 << 12  # of the database, multiplied in float64 at a time
EXACT_SCORES = 1 << 21  # computed in float64 at a time: 16 MB
ROUNDING, EXACT_ROUNDING = 2.0**-24, 2.0**-53  # of one operation in float32, in float64
VANISHING = 2.0**-126  # what an operation whose result is too small for float32 may lose

Database = Iterable[tuple[Rows, Vectors]]  # (row numbers, vectors); can be iterated again


@dataclass(frozen=True)
class Neighbours:
    """The k nearest rows of each query, by (Euclidean distance, row number).

    Attributes:
        rows: [q, k] int64, row numbers.
        distances: [q, k] float64.
    """

    rows: NDArray[np.int64]
    distances: NDArray[np.float64]


@dataclass(frozen=True)
class _Candidates:
    """The best scores x.y - |y|^2 / 2 of each query, falling.

    Attributes:
        scores: [q, c] float32.
        positions: [q, c], places of the rows in the database's order.
        rows: [q, c], row numbers.
        bound: [q, 1], what rounding may have changed a score by: that of a product of d terms and
            a sum with the half norm (Higham, Accuracy and Stability, section 3.1), and what the
            square of a float64 difference cannot tell. Infinite where squares had no room.
        are_all: whether the database has no other rows.
    """

    scores: NDArray[np.float32]
    positions: NDArray[np.int64]
    rows: NDArray[np.int64]
    bound: NDArray[np.float32]
    are_all: bool


def nearest(
    queries: Vectors, database: Database, k: int, device: torch.device | None = None
) -> Neighbours:
    """Return the exact k nearest neighbours of each query by Euclidean distance.

    Among rows at the same distance the smaller row number comes first. Cosine neighbours are
    those of normalised vectors.

    Args:
        queries: [q, d] float32, finite.
        database: blocks of (row numbers, vectors [n, d]), finite; read two or three times.
        k: neighbours of each query.
        device: where the products run; default: the CPU.

    Raises:
        ValueError: the database has fewer than k rows.
    """
    parts = [
        _settle(part, found, _at_least(found, k - 1), database, k, device)
        for part, found in _searched(queries, database, k, device)
    ]
    rows, squared = zip(*parts, strict=True)
    return Neighbours(np.concatenate(rows), np.sqrt(np.concatenate(squared)))


def nearest_rows(
    queries: Vectors, database: Database, k: int, device: torch.device | None = None
) -> NDArray[np.int64]:
    """Return the row numbers [q, k] of `nearest`, in any order: all that a vote needs, and faster.

    Raises:
        ValueError: the database has fewer than k rows.
    """
    parts = []
    for part, found in _searched(queries, database, k, device):
        rows = found.rows[:, :k].copy()
        if found.scores.shape[1] > k:
            gap = found.scores[:, k - 1] - found.scores[:, k]
            close = np.flatnonzero(~(gap > 2 * found.bound[:, 0]))
            few = _Candidates(
                found.scores[close],
                found.positions[close],
                found.rows[close],
                found.bound[close],
                found.are_all,
            )
            above = few.scores > few.scores[:, k : k + 1] + 2 * few.bound
            band = _at_least(few, k - 1) & ~above
            rows[close] = _settle(part[close], few, band, database, k, device)[0]
        parts.append(rows)
    return np.concatenate(parts)


def _searched(
    queries: Vectors, database: Database, k: int, device: torch.device | None
) -> Iterator[tuple[Vectors, _Candidates]]:
    """Yield queries, as many as may be held at a time, and their candidates."""
    count = max(1, QUERY_BYTES // (4 * queries.shape[1]))
    for start in range(0, len(queries), count):
        part = queries[start : start + count]
        found = _candidates(part, database, k + SPARE, device or torch.device("cpu"))
        if found.scores.shape[1] < k:
            raise ValueError(
                f"{counted(found.scores.shape[1], 'row has', 'rows have')} no "
                f"{counted(k, 'nearest neighbour')}"
            )
        yield part, found


def _at_least(found: _Candidates, rank: int) -> NDArray[np.bool_]:
    """Tell which candidates may be as near as one of some rank; all where rounding has no bound."""
    low = found.scores[:, rank : rank + 1] - 2 * found.bound
    return ~(found.scores < low)


def _settle(
    queries: Vectors,
    found: _Candidates,
    band: NDArray[np.bool_],
    database: Database,
    k: int,
    device: torch.device | None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Measure the candidates in a band in float64, and return the k best rows and their squares.

    Candidates above the band are taken, with a square of minus infinity, those below it are not.
    A band that reaches the last candidate may go on among the other rows: these queries are
    compared with the whole database.
    """
    is_open = band[:, -1] & (not found.are_all)
    closed = np.flatnonzero(~is_open)
    above = np.cumsum(band, axis=1) == 0
    squared = np.where(above, -np.inf, np.inf)
    query, rank = np.nonzero(band & ~is_open[:, None])
    squared[query, rank] = _measure(queries, database, query, found.positions[query, rank])
    order = np.lexsort((found.rows, squared), axis=-1)[:, :k]
    rows = np.take_along_axis(found.rows, order, 1)
    squared = np.take_along_axis(squared, order, 1)
    if len(closed) < len(queries):
        least = found.scores[is_open, k - 1] - found.bound[is_open, 0].astype(np.float64)
        rows[is_open], squared[is_open] = _exhaustive(queries[is_open], database, k, least, device)
    return rows, squared


@float32_products()  # the bound of its rounding errors holds for no other
def _candidates(
    queries: Vectors, database: Database, count: int, device: torch.device
) -> _Candidates:
    x = torch.from_numpy(queries).to(device)
    best = torch.zeros((len(x), 0), device=device)
    places = torch.zeros((len(x), 0), dtype=torch.int64, device=device)
    numbers: list[Rows] = [np.zeros(0, np.int64)]
    largest, longest, first = 0.0, 0.0, 0
    tile = torch.empty(TILE_SCORES, device=device)
    for rows, vectors in database:
        y = torch.from_numpy(np.ascontiguousarray(vectors)).to(device)
        half = (y * y).sum(dim=1) / 2
        largest = max(largest, float(half.max()))
        # in float64, since the squares of rows below 1e-19 are lost in float32
        lengths = torch.linalg.vector_norm(y, dim=1, dtype=torch.float64)
        longest = max(longest, float(lengths.max()))
        step = max(1, TILE_SCORES // len(y))
        found, where = [], []
        for start in range(0, len(x), step):
            part = x[start : start + step]
            scores = tile if len(part) * len(y) <= TILE_SCORES else tile.new_empty(len(y))
            scores = torch.mm(part, y.T, out=scores[: len(part) * len(y)].view(len(part), len(y)))
            values, columns = _top(scores.sub_(half), min(count, len(y)))
            found.append(values)
            where.append(columns)
        best = torch.cat([best, torch.cat(found)], dim=1)
        places = torch.cat([places, torch.cat(where) + first], dim=1)
        best, order = best.topk(min(count, best.shape[1]), dim=1)
        places = places.gather(1, order)
        numbers.append(rows)
        first += len(y)
    width = x.shape[1]
    far = x.norm(dim=1, keepdim=True)
    bound = (width + 4) * ROUNDING * (longest * far + largest)
    bound += (width + 4) * EXACT_ROUNDING * (longest + far) * (longest + far)
    bound = (bound + 2 * width * VANISHING).nan_to_num(torch.inf, torch.inf)
    best = best.masked_fill(bound.isinf(), 0)  # these say nothing
    positions = places.cpu().numpy()
    return _Candidates(
        scores=best.cpu().numpy(),
        positions=positions,
        rows=np.concatenate(numbers)[positions],
        bound=bound.cpu().numpy(),
        are_all=best.shape[1] == first,
    )


def _top(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the largest scores [q, count] of each row and their columns, like `topk` but faster.

    The best scores lie in the groups of columns with the best maxima, so most scores are read
    once and compared with nothing but their group.
    """
    groups = scores.shape[1] // GROUP
    if groups < 4 * count:
        values, columns = scores.topk(count, dim=1)
        return values, columns
    whole = groups * GROUP
    grouped = scores[:, :whole].unflatten(1, (groups, GROUP))
    chosen = grouped.amax(dim=2).topk(count, dim=1).indices
    members = grouped.gather(1, chosen[:, :, None].expand(-1, -1, GROUP)).flatten(1)
    values, order = members.topk(count, dim=1)
    columns = chosen.gather(1, order // GROUP) * GROUP + order % GROUP
    if whole == scores.shape[1]:
        return values, columns
    rest = torch.arange(whole, scores.shape[1], device=scores.device).expand(len(scores), -1)
    values, order = torch.cat([values, scores[:, whole:]], dim=1).topk(count, dim=1)
    return values, torch.cat([columns, rest], dim=1).gather(1, order)


def _measure(
    queries: Vectors, database: Database, query: NDArray[np.int64], position: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the squared distances [p], in float64, of pairs of a query and a database position."""
    squared = np.empty(len(query))
    order = np.argsort(position, kind="stable")
    ordered = position[order]
    first = 0
    for numbers, vectors in database:
        low, high = np.searchsorted(ordered, [first, first + len(numbers)])
        pairs = order[low:high]
        squared[pairs] = _differences(queries, query[pairs], vectors, position[pairs] - first)
        first += len(numbers)
    return squared


def _exhaustive(
    queries: Vectors,
    database: Database,
    k: int,
    least: NDArray[np.float64],
    device: torch.device | None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return rows and squared distances by float64 alone: for crowds of near ties.

    A float64 product tells which rows may be among the k nearest, but for its own rounding; these
    few are measured.

    Args:
        queries: [q, d].
        database: as `nearest` takes it.
        k: neighbours of each query.
        least: [q], what the score x.y - |y|^2 / 2 of the k-th best row is at least; changed.
        device: where the products run.
    """
    best = _Best(len(queries), k)
    place = device or torch.device("cpu")
    x = torch.from_numpy(queries).to(place).double()
    lengths = x.norm(dim=1)
    step = max(1, EXACT_SCORES // EXACT_ROWS)
    for numbers, vectors in database:
        for first in range(0, len(vectors), EXACT_ROWS):
            some = vectors[first : first + EXACT_ROWS]
            some_numbers, needed = numbers[first : first + EXACT_ROWS], None
            y = torch.from_numpy(np.ascontiguousarray(some)).to(place).double()
            half = y.square().sum(dim=1) / 2
            largest = half.max()
            terms = 2 * (x.shape[1] + 4) * EXACT_ROUNDING
            bound = terms * (lengths + (2 * largest).sqrt()).square()
            for start in range(0, len(x), step):
                part = slice(start, start + step)
                scores = torch.mm(x[part], y.T).sub_(half)
                low = torch.from_numpy(least[part]).to(place)
                near = scores >= (low - bound[part])[:, None]
                if len(y) > k and int(near.sum()) > 2 * k * len(scores):  # far too many: know more
                    low = torch.maximum(low, scores.topk(k, dim=1).values[:, -1] - bound[part])
                    least[part] = low.cpu().numpy()
                    near = scores >= (low - bound[part])[:, None]
                    if needed is None:
                        needed = torch.from_numpy(_first_copies(some, some_numbers, k)).to(place)
                    near &= needed
                query, column = (index.cpu().numpy() for index in near.nonzero(as_tuple=True))
                squared = _differences(queries, query + start, some, column)
                best.add(query + start, some_numbers[column], squared)
    return best.rows, best.squared


def _first_copies(vectors: Vectors, numbers: Rows, k: int) -> NDArray[np.bool_]:
    """Return which rows have fewer than k equal ones of smaller numbers: no others are needed."""
    content = np.ascontiguousarray(vectors).view(f"V{vectors.itemsize * vectors.shape[1]}")
    copy_of = np.unique(content, return_inverse=True)[1].ravel()
    order = np.lexsort((numbers, copy_of))
    ordered = copy_of[order]
    is_needed = np.empty(len(order), bool)
    is_needed[order] = np.arange(len(order)) - np.searchsorted(ordered, ordered) < k
    return is_needed


class _Best:
    """The k nearest rows of each query so far, by (squared distance, row number)."""

    def __init__(self, queries: int, k: int) -> None:
        self.rows = np.full((queries, k), np.iinfo(np.int64).max)
        self.squared = np.full((queries, k), np.inf)

    def add(
        self, query: NDArray[np.int64], rows: NDArray[np.int64], squared: NDArray[np.float64]
    ) -> None:
        """Take in pairs of a query and a row."""
        touched = np.unique(query)
        k = self.rows.shape[1]
        query = np.concatenate([query, np.repeat(touched, k)])
        rows = np.concatenate([rows, self.rows[touched].ravel()])
        squared = np.concatenate([squared, self.squared[touched].ravel()])
        order = np.lexsort((rows, squared, query))
        starts = np.searchsorted(query[order], touched)
        chosen = order[starts[:, None] + np.arange(k)]
        self.rows[touched], self.squared[touched] = rows[chosen], squared[chosen]


def _differences(
    queries: Vectors, query: NDArray[np.int64], vectors: Vectors, row: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the squared distances [p], in float64, of pairs of a query and a row of vectors."""
    squared = np.empty(len(query))
    for start in range(0, len(query), PAIRS_AT_ONCE):
        pairs = slice(start, start + PAIRS_AT_ONCE)
        ours = queries[query[pairs]].astype(np.float64)
        ours -= vectors[row[pairs]]
        squared[pairs] = np.einsum("pd,pd->p", ours, ours)
    return squared
