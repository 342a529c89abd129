"""Two classifiers on the same test rows: how far apart they are, and whether that is chance.

A row that both get right, or both wrong, says nothing of which is better. The others are gained or
lost, and a difference that is chance would have gained as well what it lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binom, binomtest

from fungistore.evaluation.intervals import NORMAL, TAIL
from fungistore.evaluation.result import Difference
from fungistore.store.samples import Rows

TINY = 1e-300  # instead of a variance of 0, by which nothing can be divided
Changes = NDArray[np.int64]  # of each row: how often it was gained, less how often it was lost


@dataclass(frozen=True)
class Hits:
    """What a classifier got right in one run.

    Attributes:
        rows: [n] that it was tested on.
        right: [n] whether it was.
    """

    rows: Rows
    right: NDArray[np.bool_]


@dataclass(frozen=True)
class Combination:
    """What a combination of features got right.

    Attributes:
        name: of the combination.
        runs: one for each seed; of all combinations on the same rows.
    """

    name: str
    runs: tuple[Hits, ...]


def paired_difference(combination: Combination, first: Combination) -> Difference | None:
    """Compare a combination of features with the first one; that one has nothing to be told of.

    One run has McNemar's exact test (1947): of rows that are gained or lost, the gained are a fair
    coin's heads. Its interval is Tango's (1998), which is to a difference of pairs what Wilson's is
    to an accuracy: it has a width where no row changed.

    Several runs share test rows, of which some are hard in all of them, so runs are not
    independent, and rows are: what a row has gained and lost over all runs keeps or changes its
    sign as a whole (Fisher's test of signs, exact; with one run it is McNemar's), and the interval
    is the percentile bootstrap's of resampled rows. Where all rows have changed alike every
    resample is the same, and it is Tango's, of the changes of a mean run. Either is of these runs'
    training rows: how others would do, it does not know.
    """
    if combination is first:
        return None
    rows = np.concatenate([run.rows for run in first.runs])
    hits, before = (np.concatenate([run.right for run in o.runs]) for o in (combination, first))
    gained, lost = int((hits & ~before).sum()), int((before & ~hits).sum())
    distinct, numbers = np.unique(rows, return_inverse=True)
    changes = np.rint(np.bincount(numbers, hits.astype(float) - before)).astype(np.int64)
    is_resampled = len(distinct) < len(rows) and len(np.unique(changes)) > 1
    part = len(distinct) / len(rows)  # of all tests, those of a mean run
    return Difference(
        against=first.name,
        gained=gained,
        lost=lost,
        value=(gained - lost) / len(rows),
        interval=resampled_interval(changes, len(rows))
        if is_resampled
        else score_interval(part * gained, part * lost, len(distinct)),
        p=chance_of(changes),
    )


def chance_of(changes: Changes) -> float:
    """Return how likely a sum as far from 0 is where each row's sign is a fair coin's.

    Exact, without random numbers: rows of one size sum to a binomial, and sizes are convolved by a
    Fourier transform, to 1e-14: what is less likely is not told apart.
    """
    sizes, counts = np.unique(np.abs(changes[changes != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    if len(sizes) == 1:
        return float(binomtest(int((changes > 0).sum()), int(counts[0])).pvalue)
    width = 2 * int(sizes @ counts) + 1
    waves = np.ones(width // 2 + 1, complex)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        heads = np.arange(count + 1)
        chances = np.zeros(width)  # of sums, those below 0 at the end
        chances[size * (2 * heads - count)] = binom.pmf(heads, count, 0.5)
        waves *= np.fft.rfft(chances)
    chances = np.roll(np.fft.irfft(waves, width), width // 2)
    nearer = np.abs(np.arange(width) - width // 2) < abs(int(changes.sum()))
    return float(np.clip(1 - chances[nearer].sum(), 0, 1))


def resampled_interval(changes: Changes, tests: int) -> tuple[float, float]:
    """Return the percentile bootstrap's 95 % interval of a difference, of resampled rows.

    The distribution of the sum of n drawn rows is the n-th power of one row's, by a Fourier
    transform: again without random numbers.

    Args:
        changes: of each row [n].
        tests: in all runs together.
    """
    most = int(np.abs(changes).max()) * len(changes)
    step = np.zeros(2 * most + 1)  # sums from -most to most, those below 0 at the end
    np.add.at(step, changes, 1 / len(changes))
    chances = np.fft.irfft(np.fft.rfft(step) ** len(changes), len(step))
    below = np.roll(chances, most).cumsum()
    low, high = (np.searchsorted(below, [TAIL, 1 - TAIL]) - most) / tests
    return float(low), float(high)


def score_interval(gained: float, lost: float, count: int) -> tuple[float, float]:
    """Return Tango's 95 % score interval of the difference of two paired accuracies.

    Those differences that a score test does not reject, whose variance is that of the likeliest
    rows with the difference (Tango, Statistics in Medicine 17, 1998, equations 3 to 5).

    Args:
        gained: rows that the second gets right and the first does not; a mean may be no integer.
        lost: the other way round.
        count: rows in all.
    """

    found = (gained - lost) / count
    low, high = (
        found if found == end else brentq(_beyond, found, end, (gained, lost, count, end * NORMAL))
        for end in (-1, 1)
    )
    return float(min(low, found)), float(max(high, found))


def _beyond(difference: float, gained: float, lost: float, count: int, bound: float) -> float:
    """Return how far the score of a difference is from a bound, which has the sign of its end."""
    b = (2 * count - gained + lost) * difference - gained - lost
    c = -lost * difference * (1 - difference)
    lost_part = (np.sqrt(max(b * b - 8 * count * c, 0)) - b) / (4 * count)
    variance = count * (2 * lost_part + difference * (1 - difference))
    return float((gained - lost - count * difference) / np.sqrt(max(variance, TINY)) + bound)
