"""Which masks a bank's labels are of, as its records keep it, so that others are noticed."""

from __future__ import annotations

import numpy as np

from fungistore.annotations.masks import Masks
from fungistore.store.contents import Commits
from fungistore.store.samples import Rows

MASKS_INPUT = "annotations/masks"  # what a unit's record calls the masks that it was made from


def said_of_masks(masks: Masks, first: int, rows: Rows) -> str:
    """Return which rows a unit's bank has been made of, in hexadecimal bits, and their masks.

    Args:
        masks: of the store.
        first: row of the unit.
        rows: of the unit.
    """
    bits = sum(1 << row - first for row in rows.tolist())
    return f"{bits:x}:{masks.digest(rows)}"


def units_of_other_masks(masks: Masks, unit_rows: int, commits: Commits) -> int:
    """Return how many units of a bank were made of other masks than there are now.

    Args:
        masks: of the store.
        unit_rows: rows of a unit.
        commits: records of an array of the bank.
    """
    there = set(masks.rows.tolist())
    changed = 0
    for unit, commit in commits.items():
        then = dict(commit.inputs).get(MASKS_INPUT, "")
        try:
            bits, first = int(then.partition(":")[0], 16), unit * unit_rows
        except ValueError:  # nothing that was written here
            changed += 1
            continue
        rows = np.array([first + n for n in range(bits.bit_length()) if bits >> n & 1], np.int64)
        is_same = there.issuperset(rows.tolist()) and said_of_masks(masks, first, rows) == then
        changed += not is_same
    return changed
