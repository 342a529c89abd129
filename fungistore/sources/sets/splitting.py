"""Splits of sets that come without: LOFF-TA's authors publish no code for theirs.

Their earlier code does (ChrisMats/medical_transformers, defaults/bases.py, `get_validation_ids`,
of "Is it Time to Replace CNNs with Transformers for Medical Images?", 2021): rows are shuffled by
Python's generator of seed 42, the first part of them is held out, and halved into val and test.
"""

from __future__ import annotations

import random

SEED = 42


def held_out(rows: int, share: float) -> list[str]:
    """Return the split of each row: a share of them is val and test, one half each."""
    order = list(range(rows))
    random.Random(SEED).shuffle(order)
    count = int(rows * share)
    splits = ["train"] * rows
    for place, row in enumerate(order[:count]):
        splits[row] = "val" if place < count // 2 else "test"
    return splits
