"""Averages of neighbouring tokens: pooled maps and sequences."""

from __future__ import annotations

from torch import Tensor, nn


def pooled(tokens: Tensor, pool: int) -> Tensor:
    """Average tokens [b, length, d] or [b, h, w, d] over cells of side `pool`, in float32."""
    if pool == 1:
        return tokens
    average = nn.functional.avg_pool1d if tokens.ndim == 3 else nn.functional.avg_pool2d
    channels_first = tokens.movedim(-1, 1).float()
    return average(channels_first, pool).movedim(1, -1)
