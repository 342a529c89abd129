"""Where a timm model's features have their places: tokens row by row, or a map.

Convolutions make maps with the channels first, Swin and its like with the channels last; a map of
one kind that is read as the other is silently nonsense, so the width decides, and timm's word.
"""

from __future__ import annotations

from math import isqrt
from typing import Any, Literal

from torch import Tensor

Layout = Literal["tokens", "channels first", "channels last"]

Found = tuple[Layout | None, int, int, int]  # layout, rows, columns, prefix tokens
MOST_CLASS_TOKENS = 2
NOWHERE: Found = (None, 0, 0, 0)


def layout_of(model: Any, features: Any) -> Found:
    """Return how features [1, ...] of a model hold their places, their sides, and the prefix.

    Args:
        model: timm's.
        features: what its `forward_features` gave for one image; lists have no places.
    """
    if not isinstance(features, Tensor):
        return NOWHERE
    if features.ndim == 4:
        return _of_map(model, features)
    if features.ndim == 3:
        return _of_tokens(model, features.shape[1])
    return NOWHERE


def _of_map(model: Any, features: Tensor) -> Found:
    _, first, second, third = features.shape
    width = getattr(model, "num_features", None)
    is_last = third == width if first != third else getattr(model, "output_fmt", "") == "NHWC"
    if not is_last and first != width and first == second != third:
        is_last = True  # neither side has the model's width, but only this one is square
    if is_last:
        return "channels last", first, second, 0
    return "channels first", second, third, 0


def _of_tokens(model: Any, count: int) -> Found:
    """Return a square's sides; who says nothing of a prefix has one class token or none.

    One or two tokens are class tokens that a family passes on alone.
    """
    known = getattr(model, "num_prefix_tokens", None)
    if known is None and count <= MOST_CLASS_TOKENS:
        return NOWHERE
    for prefix in (0, 1) if known is None else (known,):
        side = isqrt(count - prefix) if count > prefix else 0
        if side > 0 and side * side == count - prefix:
            return "tokens", side, side, prefix
    return NOWHERE
