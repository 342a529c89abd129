"""Which images a memory bank is made of: those of the train split with masks and features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fungistore.annotations.masks import Masks, open_masks
from fungistore.errors import UsageError
from fungistore.machine.context import Context
from fungistore.matrices.splits import choose_split
from fungistore.matrices.tokens import TokenMatrix
from fungistore.store.samples import Rows
from fungistore.store.store import Store


@dataclass(frozen=True)
class BankImages:
    """What a bank is made of.

    Attributes:
        tokens: the features.
        masks: of the store.
        rows: of its images, ascending.
        excluded: other rows of the train split, by reason.
    """

    tokens: TokenMatrix
    masks: Masks
    rows: Rows
    excluded: dict[str, int]


def choose_images(
    store: Store, tokens: TokenMatrix, group: str | None, context: Context
) -> BankImages:
    """Return the images of a bank, and how many of the train split are left out, by reason.

    Images with the same value in the column `group` are all in the bank's part, or none is.

    Raises:
        UsageError: the store has no masks, or no training image has a mask and usable features.
    """
    masks = open_masks(store)
    split = choose_split(store, holdout=None, seed=0, group=group)
    if remark := split.remark(is_fixed=True):
        context.reporter.notice(remark)
    coverage = tokens.coverage()
    has_mask = np.zeros(len(store.samples), bool)
    has_mask[masks.rows] = True
    rows = np.sort(split.train)
    counts = {
        "rows without a mask": (~has_mask & ~coverage.removed)[rows].sum(),
        "rows without usable features": (has_mask & ~coverage.usable & ~coverage.removed)[
            rows
        ].sum(),
        "rows whose file is gone": coverage.removed[rows].sum(),
    }
    excluded = {reason: int(count) for reason, count in counts.items() if count}
    kept = rows[(has_mask & coverage.usable)[rows]]
    if not len(kept):
        raise UsageError(
            "there are no training images for a bank",
            where=store.where,
            expected="images of the train split with a mask and usable features",
            found=", ".join(f"{n} {why}" for why, n in excluded.items()) or "no training images",
            hint="fungi status shows what is missing",
        )
    return BankImages(tokens, masks, kept, excluded)
