"""Rows that a narrower type cannot hold: values too large for it, or too small."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fungistore.errors import UsageError
from fungistore.exchange.formats import Matrix
from fungistore.quantities import counted

MOST_CHANGE = 0.01  # of a row's length; rounding alone changes it by 0.0005 in float16
# Only a row whose largest value is at most so many of the type's smallest can change by that much.
DOUBTFUL = 1024


@dataclass(frozen=True)
class Unfit:
    """Counts of rows.

    Attributes:
        large: finite ones with values that become infinite.
        small: others that lose more than `MOST_CHANGE` of their length, at worst to zeros.
    """

    large: int = 0
    small: int = 0

    def __add__(self, other: Unfit) -> Unfit:
        """Return the counts of both."""
        return Unfit(self.large + other.large, self.small + other.small)


def unfit_rows(block: Matrix, dtype: str) -> Unfit:
    """Count the rows [n, d] that a type cannot hold; one that is not finite is of no use anyway."""
    with np.errstate(over="ignore"):
        cast = block.astype(dtype)
    is_large = np.isinf(cast).any(axis=1) & np.isfinite(block).all(axis=1)
    largest = np.abs(block).max(axis=1, initial=0)
    least = float(np.finfo(dtype).smallest_normal)
    doubtful = ~is_large & (largest > 0) & (largest < DOUBTFUL * least)
    exact = block[doubtful].astype(np.float64) / largest[doubtful, None]
    kept = cast[doubtful].astype(np.float64) / largest[doubtful, None]
    change = np.linalg.norm(kept - exact, axis=1) / np.linalg.norm(exact, axis=1)
    return Unfit(int(is_large.sum()), int((change > MOST_CHANGE).sum()))


def refuse_unfit(
    blocks: Iterable[Matrix], dtype: str, *, flag: str, hint: str, more_follow: bool = False
) -> None:
    """Refuse rows that a type cannot hold.

    Args:
        blocks: the rows.
        dtype: the type.
        flag: that names it.
        hint: what to do about it.
        more_follow: there are others, that are not counted here.

    Raises:
        UsageError: there are some.
    """
    found = sum((unfit_rows(block, dtype) for block in blocks), Unfit())
    limits, least = np.finfo(dtype), "at least " if more_follow else ""
    if found.large:
        raise UsageError(
            f"{least}{counted(found.large, 'row has', 'rows have')} values that are "
            f"too large for {dtype}",
            where=flag,
            expected=f"at most {limits.max}",
            hint=hint,
        )
    if found.small:
        raise UsageError(
            f"{least}{counted(found.small, 'row has', 'rows have')} values that are "
            f"too small for {dtype}: "
            "they would be zero, or off by more than 1 %",
            where=flag,
            expected=f"values well above {limits.smallest_normal:.0e}",
            hint=hint,
        )
