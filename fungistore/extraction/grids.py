"""Token grids as a store keeps them: pooled over cells, padded to one shape, with their lengths."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fungistore.backbones.encoder import TokenGrid
from fungistore.gradients.projection import unit_rows
from fungistore.matrices.cells import pooled
from fungistore.store.feature import LENGTHS, OF_PATCHES, PATCH_GRADIENTS, PATCH_NORMS, PATCHES


def stored_grid(grid: TokenGrid, shape: tuple[int, ...], pool: int) -> dict[str, Tensor]:
    """Return the rows of the arrays that a batch's tokens go into.

    Args:
        grid: tokens [b, *shape, d]; with a mask, the last dimension of the shape may be shorter.
        shape: what a sample of full length has.
        pool: the side of the cells whose tokens are averaged; a masked token does not count, and
            a cell with no token is zeros.
    """
    if grid.mask is None:
        return {PATCHES: pooled(grid.tokens, pool)}
    missing = shape[-1] - grid.mask.shape[-1]
    mask = nn.functional.pad(grid.mask, (0, missing))
    tokens = nn.functional.pad(grid.tokens, (0, 0, 0, missing))
    tokens = tokens.masked_fill(~mask[..., None], 0)
    if pool > 1:
        share = pooled(mask[..., None].to(tokens.dtype), pool)
        tokens = pooled(tokens, pool) / share.clamp_min(torch.finfo(share.dtype).tiny)
        mask = share[..., 0] > 0
    return {PATCHES: tokens, LENGTHS + PATCHES: mask.flatten(1).sum(1).float()}


def stored_gradients(
    name: str, tokens: Tensor, shape: tuple[int, ...], pool: int
) -> dict[str, Tensor]:
    """Return the rows of the arrays that a batch's gradients of tokens go into.

    Args:
        name: of the feature, such as "patches/simclr".
        tokens: projected gradients [b, t, d], of their true lengths.
        shape: rows and columns of the t tokens.
        pool: the side of the cells whose gradients are averaged; each becomes a unit vector.
    """
    grid = pooled(tokens.unflatten(1, shape), pool)
    unit, places = unit_rows(grid.flatten(0, -2)), grid.shape[:-1]
    short = name.removeprefix(OF_PATCHES)
    return {
        PATCH_GRADIENTS + short: unit.rows.unflatten(0, places),
        PATCH_NORMS + short: unit.norms.unflatten(0, places),
    }
