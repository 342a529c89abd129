"""Metrics of one ranking: average precision two ways, and precision among the best.

Ranks count from 0 and are those of the positives that were found, ascending.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fungistore.store.coverage import Mask

Ranks = NDArray[np.int64]


def trapezoid_precision(ranks: Ranks, positives: int) -> float:
    """Return the average precision of the Oxford protocol: trapezoids under precision by recall.

    Args:
        ranks: ascending ranks, from 0, at which positives were found; junk does not count.
        positives: how many there are to find.
    """
    found = np.arange(len(ranks))
    before = np.divide(found, ranks, out=np.ones(len(ranks)), where=ranks > 0)
    after = (found + 1) / (ranks + 1)
    return float(((before + after) / 2).sum() / positives)


def mean_precision(ranks: Ranks, positives: int) -> float:
    """Return the average precision: the mean, over positives, of the precision at their ranks.

    Args:
        ranks: ascending ranks, from 0, at which positives were found.
        positives: how many there are to find; those that were not found count as 0.
    """
    return float((np.arange(1, len(ranks) + 1) / (ranks + 1)).sum() / positives)


def ranks_without_junk(order: NDArray[np.int64], positive: Mask, junk: Mask) -> Ranks:
    """Return the ranks of positives, ascending and from 0, as if junk were not in the ranking.

    Args:
        order: database positions, best first.
        positive: mask over the database of what should be found.
        junk: mask over the database of what counts neither way.
    """
    kept = order[~junk[order]]
    return np.flatnonzero(positive[kept])


def capped_precision(ranks: Ranks, positives: int, cut: int) -> float:
    """Return the precision at a cut as the revisited protocol has it.

    Where the last positive comes before the cut, the cut is its place: a query with two images to
    find can have a precision of 1 at 10.

    Args:
        ranks: ascending ranks, from 0, at which positives were found.
        positives: how many there are to find.
        cut: the number of best places to look at.
    """
    if len(ranks) == positives:
        cut = min(cut, int(ranks[-1]) + 1)
    return float((ranks < cut).sum() / cut)


def precision_at(ranks: Ranks, positives: int, cut: int) -> float:
    """Return the part of the best that are positive, however many there are to find.

    Args:
        ranks: ascending ranks, from 0, at which positives were found.
        positives: how many there are to find; of no account.
        cut: the number of best places to look at.
    """
    return float((ranks < cut).sum() / cut)
