"""Rows that belong together, as images of one patient, are divided whole: on one side or the other.

Stratified as scikit-learn's StratifiedGroupKFold divides: so many folds of whole groups, whose
classes are as frequent as they can be in each, and some of the folds are held out.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from fungistore.errors import UsageError
from fungistore.quantities import counted
from fungistore.randomness import Stream
from fungistore.sources.sample import Cell
from fungistore.store.samples import Rows
from fungistore.store.store import Store

MOST_FOLDS = 20  # of which some are held out: parts of 0.05, 0.1, 0.15, ... are met as they are
MISSING = -1
IDS_SHOWN = 3
SEEDS = 2**32  # that scikit-learn takes


@dataclass(frozen=True)
class Groups:
    """To which group each row belongs.

    Attributes:
        column: of the samples, whose values name the groups.
        numbers: of the whole sample table, in the order of the values; MISSING where it has none.
    """

    column: str
    numbers: NDArray[np.int64]

    def count(self, rows: Rows) -> int:
        """Return how many groups some rows are of."""
        return len(np.unique(self.numbers[rows]))


def read_groups(store: Store, column: str, rows: Rows) -> Groups:
    """Return the groups of a store's samples.

    Args:
        store: the store.
        column: of its samples.
        rows: to be divided; each must be of a group.

    Raises:
        UsageError: there is no such column, or rows have nothing in it.
    """
    known = store.samples.columns()
    if column not in known:
        raise UsageError(
            "the samples have no such column",
            where=f"--group {column}",
            expected=", ".join(known) or "a column of the table that the samples come from",
            found="none of that name" if known else f"{store.where} has none beside its own",
            hint="fungi extract of a table keeps its columns; fungi label adds those of another",
        )
    numbers = _numbered(store.samples.cells(column))
    lacking = rows[numbers[rows] == MISSING]
    if len(lacking):
        some = [str(row["id"]) for row in store.samples.take(lacking[:IDS_SHOWN])]
        raise UsageError(
            f"{counted(len(lacking), 'row is', 'rows are')} of no group",
            where=f"--group {column}",
            expected=f"a value in the column {column} for each of {counted(len(rows), 'row')}",
            found=f"none for {', '.join(some)}{', ...' if len(lacking) > len(some) else ''}",
            hint="fungi label with a table of id and that column fills them in; a row that "
            "belongs with no other may have its own id there",
        )
    return Groups(column, numbers)


def _numbered(cells: Sequence[Cell]) -> NDArray[np.int64]:
    """Return the places of values among all that there are, sorted; blanks around them are none."""
    cells = [cell.strip() if isinstance(cell, str) else cell for cell in cells]
    values = sorted({cell for cell in cells if not _is_empty(cell)})  # type: ignore[type-var]
    places: dict[Cell, int] = {value: place for place, value in enumerate(values)}
    return np.array([places.get(cell, MISSING) for cell in cells], np.int64)


def _is_empty(cell: Cell) -> bool:
    """Whether a cell says nothing: none, no text, or no number."""
    return cell is None or cell != cell or cell == ""


def grouped_holdout(
    rows: Rows,
    labels: NDArray[np.int32],
    groups: Groups,
    part: float,
    seed: int,
    purpose: str = "holdout",
) -> tuple[Rows, Rows]:
    """Divide rows into those kept and those held out; no group is on both sides.

    The rows are divided into folds by scikit-learn's StratifiedGroupKFold, of which some are held
    out: 1 of 5 for a part of 0.2, 3 of 10 for 0.3, the nearest k of 20 or fewer for others; no more
    folds than groups. The seed shuffles the groups, and says which folds. A group with all rows of
    a class is kept, as a class of one row is without groups. The choice depends on the seed, the
    purpose, and the groups and labels of the rows, whatever their order.

    Args:
        rows: ascending row numbers to divide.
        labels: labels of the whole sample table, -1 where there is none.
        groups: of the rows.
        part: of the rows that is to be held out, between 0 and 1.
        seed: of the choice.
        purpose: names the stream of random numbers, so that two choices are independent.

    Returns:
        The two sides; nothing is held out where there are not two groups that may be.
    """
    sole = list(sole_groups(rows, labels, groups).values())
    free = rows[~np.isin(groups.numbers[rows], sole)]
    of_rows, sizes = groups.numbers[free], np.unique(labels[free], return_counts=True)[1]
    most = min(len(np.unique(of_rows)), int(sizes.max(initial=0)))
    if most < 2:
        return rows, rows[:0]
    share = _folds(part)
    folds = min(share.denominator, most)
    taken = min(max(round(share * folds), 1), folds - 1)
    keys = Stream(seed, purpose, "groups").uniform(folds + 1)
    held = np.argsort(keys[1:], kind="stable")[:taken]
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=int(keys[0] * SEEDS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class of fewer rows than folds
        parts = [test for _, test in splitter.split(free, labels[free], of_rows)]
    chosen = np.sort(np.concatenate([free[parts[fold]] for fold in held]))
    return np.setdiff1d(rows, chosen, assume_unique=True), chosen


def sole_groups(rows: Rows, labels: NDArray[np.int32], groups: Groups) -> dict[int, int]:
    """Return, of each class that has all of its rows in one group, which group that is."""
    pairs = np.unique(np.stack([labels[rows], groups.numbers[rows]]), axis=1)
    classes, firsts, counts = np.unique(pairs[0], return_index=True, return_counts=True)
    alone = (counts == 1) & (classes >= 0)
    return dict(zip(classes[alone].tolist(), pairs[1, firsts[alone]].tolist(), strict=True))


def _folds(part: float) -> Fraction:
    """Return a part as folds held out of folds in all; there are more than 20 for tiny ones."""
    near = Fraction(part).limit_denominator(MOST_FOLDS)
    if near == 0:
        return Fraction(1, round(1 / part))
    return 1 - Fraction(1, round(1 / (1 - part))) if near == 1 else near
