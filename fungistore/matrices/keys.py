"""Indices of a matrix that stays on the disk, taken apart as NumPy does it."""

from __future__ import annotations

from typing import Any

import numpy as np


def spelled_out(key: Any) -> list[Any]:
    """Return what an index of a matrix has for new axes, then for rows, then for the rest.

    Raises:
        IndexError: it has two ellipses, or a truth value, which is neither a row nor a mask.
    """
    keys: list[Any] = []
    for one in key if isinstance(key, tuple) else (key,):
        if isinstance(one, bool | np.bool_):
            raise IndexError("a truth value is no index of rows or columns")
        mask = None if one is None or one is ... or isinstance(one, slice) else np.asarray(one)
        is_whole = mask is not None and mask.dtype == bool and mask.ndim == 2
        keys += np.nonzero(mask) if mask is not None and is_whole else (one,)
    left = [slice(None)] * (2 - sum(one is not None and one is not ... for one in keys))
    dots = [i for i, one in enumerate(keys) if one is ...]
    if len(dots) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    if dots:
        keys[dots[0] : dots[0] + 1] = left
    return keys if any(one is not None for one in keys) else [*keys, *left]
