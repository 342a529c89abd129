"""Which row comes when: exact epochs that depend on a seed and the epoch's number alone.

An order turns (epoch) into the rows of that epoch, so a position (epoch, step) is all that a
checkpoint has to keep. Arrays whose rows can be read one by one are permuted as a whole. Compressed
arrays are decoded a unit at a time: there the units are permuted, cut into windows, and the rows of
a window permuted, so that a window's units are all that has to be in memory at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fungistore.randomness import Stream
from fungistore.store.samples import Rows


class Order(Protocol):
    """Draws the rows of an epoch; see `Shuffled`, `Weighted` and `Sequential`."""

    @property
    def rows(self) -> Rows:
        """The rows that an epoch is drawn from."""

    def draw(self, epoch: int) -> Rows:
        """Return the rows of an epoch in the order of use."""

    def draw_in_windows(self, epoch: int, unit_rows: int, window: int) -> Rows:
        """Return the rows of an epoch so that each run of `window` units is used up in turn.

        Args:
            epoch: number of the epoch.
            unit_rows: rows of a unit.
            window: units whose rows are mixed with each other.
        """


class Shuffled:
    """Every row exactly once an epoch, in an order of its own each epoch.

    Args:
        rows: row numbers [n].
        seed: of the stream "shuffle".
    """

    def __init__(self, rows: Rows, seed: int) -> None:
        self.rows = _checked(rows)
        self.seed = seed

    def draw(self, epoch: int) -> Rows:
        """Return a permutation of the rows."""
        return self.rows[permutation(len(self.rows), self.seed, "shuffle", str(epoch))]

    def draw_in_windows(self, epoch: int, unit_rows: int, window: int) -> Rows:
        """Return a permutation of the rows, window by window."""
        return shuffle_windows(self.rows, self.seed, epoch, unit_rows, window)


class Weighted:
    """As many rows an epoch as there are, each drawn with replacement in proportion to a weight.

    Args:
        rows: row numbers [n].
        weights: of the rows [n], not negative and not all zero; see `balanced_weights`.
        seed: of the streams "draw" and "shuffle".

    Raises:
        ValueError: the weights cannot be drawn from.
    """

    def __init__(self, rows: Rows, weights: NDArray[np.float64], seed: int) -> None:
        self.rows = _checked(rows)
        if weights.shape != self.rows.shape or not np.isfinite(weights).all():
            raise ValueError(f"expected {len(self.rows)} finite weights, not {weights.shape}")
        if (weights < 0).any() or (len(weights) and not weights.any()):
            raise ValueError("weights must not be negative, nor all zero")
        self._cumulative = np.cumsum(weights, dtype=np.float64)
        self.seed = seed

    def draw(self, epoch: int) -> Rows:
        """Return the draws of an epoch; they are independent, so they need no shuffling."""
        if not len(self.rows):
            return self.rows
        uniform = Stream(self.seed, "draw", str(epoch)).uniform(len(self.rows))
        total = self._cumulative[-1]
        # rounding could reach the total, which lies behind the last row that has a weight
        targets = np.minimum(uniform * total, np.nextafter(total, 0))
        return self.rows[np.searchsorted(self._cumulative, targets, side="right")]

    def draw_in_windows(self, epoch: int, unit_rows: int, window: int) -> Rows:
        """Return the same draws as `draw`, window by window."""
        return shuffle_windows(self.draw(epoch), self.seed, epoch, unit_rows, window)


class Sequential:
    """Every row once, ascending, the same in each epoch: for validation and prediction.

    Args:
        rows: ascending row numbers [n].

    Raises:
        ValueError: the rows are not strictly ascending.
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = _checked(rows)
        if (np.diff(self.rows) <= 0).any():
            raise ValueError("rows in sequence must be strictly ascending")

    def draw(self, epoch: int) -> Rows:
        """Return the rows."""
        return self.rows

    def draw_in_windows(self, epoch: int, unit_rows: int, window: int) -> Rows:
        """Return the rows; ascending rows use up one unit after the other."""
        return self.rows


def training_order(rows: Rows, labels: NDArray[np.integer], seed: int, *, balanced: bool) -> Order:
    """Return the order of a training: every row once an epoch, or every class equally often.

    Args:
        rows: row numbers [n] to train on.
        labels: of the whole sample table.
        seed: of the training.
        balanced: draw every class equally often, whatever its size.
    """
    if balanced:
        return Weighted(rows, balanced_weights(labels[rows].astype(np.int64)), seed)
    return Shuffled(rows, seed)


def permutation(count: int, seed: int, *names: str) -> Rows:
    """Return a permutation of range(count), by sorting the words of a named stream.

    The index sits in a word's low bits, so keys are distinct and any sorting algorithm gives the
    same answer, in 16 bytes a row and half the time of an argsort.
    """
    bits = np.uint64(max(1, count).bit_length())
    keys = Stream(seed, *names).words(count)
    keys >>= bits
    keys <<= bits
    keys |= np.arange(count, dtype=np.uint64)
    keys.sort()
    keys &= (np.uint64(1) << bits) - np.uint64(1)
    return keys.view(np.int64)


def shuffle_windows(rows: Rows, seed: int, epoch: int, unit_rows: int, window: int) -> Rows:
    """Permute the units of some rows, then the rows within each `window` units.

    Args:
        rows: row numbers [n]; repeated ones stay repeated.
        seed: of the stream "shuffle".
        epoch: number of the epoch.
        unit_rows: rows of a unit.
        window: units whose rows are mixed with each other.
    """
    present, unit = np.unique(rows // unit_rows, return_inverse=True)
    place = permutation(len(present), seed, "shuffle", str(epoch), "units")
    words = Stream(seed, "shuffle", str(epoch), "windows").words(len(rows))
    return rows[np.lexsort((words, place[unit] // window))]


def balanced_weights(labels: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
    """Return weights [n] that make every class equally likely, whatever its size."""
    _, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    weights: NDArray[np.float64] = 1.0 / sizes[classes]
    return weights


def _checked(rows: Rows) -> Rows:
    if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"expected row numbers [n], not {rows.dtype}{list(rows.shape)}")
    return np.ascontiguousarray(rows, np.int64)
