"""One affine resample of a batch of feature maps, channels last, any floating-point type.

Written as a bag of four weighted rows for each output cell (`embedding_bag`): it reads the tokens
in the layout that they are stored and attended in. `benchmarks/loff_augment.py` compares it with
`grid_sample` and with a dense interpolation matrix for each sample. Coordinates are float32 in any
case: `grid_sample` wants them in the type of the tokens, and bfloat16 would misplace what is read
from a 16 x 16 grid by up to 2 % of a cell.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from fungistore.loff.options import Interpolation, Padding


def resample(
    tokens: Float[Tensor, "b h w d"],
    matrices: Float[Tensor, "b 2 3"],
    *,
    interpolation: Interpolation = "bilinear",
    padding: Padding = "zeros",
) -> Float[Tensor, "b h w d"]:
    """Read every output cell from where its sample's matrix says.

    Whole cells are read exactly, so flips lose nothing.

    Args:
        tokens: feature maps; the result has their type.
        matrices: float32, on the same device, in the coordinates of `operations`.
        interpolation: "bilinear", or the "nearest" cell (the right or lower one of two).
        padding: outside the grid are "zeros", the "mean" of each channel of the sample, the nearest
            "border" cell, or the "reflection" in the outer edges of the outermost cells.
    """
    count, height, width, _ = tokens.shape
    x, y = _places(matrices, height, width)
    if padding in ("border", "reflection"):
        x, y = _inside(x, width, padding), _inside(y, height, padding)
    columns, across = _taps(x, interpolation)
    rows, down = _taps(y, interpolation)
    across = across.where((columns >= 0) & (columns < width), 0)
    down = down.where((rows >= 0) & (rows < height), 0)
    columns, rows = columns.clamp(0, width - 1), rows.clamp(0, height - 1)
    maps = torch.arange(count, device=tokens.device)[:, None, None] * (height * width)
    cells = rows[..., :, None] * width + columns[..., None, :]
    weights = down[..., :, None] * across[..., None, :]
    mixed = functional.embedding_bag(
        cells.flatten(2).add_(maps).flatten(0, 1),
        tokens.reshape(-1, tokens.shape[-1]),
        mode="sum",
        per_sample_weights=weights.flatten(2).flatten(0, 1).to(tokens.dtype),
    )
    if padding == "mean":
        # weights of whole cells sum to exactly one, so that nothing is added to these
        outside = 1 - weights.sum(dim=(-2, -1)).reshape(-1, 1)
        means = tokens.mean(dim=(1, 2)).repeat_interleave(height * width, dim=0)
        mixed = mixed.addcmul_(outside.to(tokens.dtype), means)
    return mixed.view(tokens.shape)


def _places(
    matrices: Float[Tensor, "b 2 3"], height: int, width: int
) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n"]]:
    """Return column and row, as fractions of cells, that each of the n output cells reads.

    Sums of products rather than a matmul, which could run in TF32.
    """
    x = torch.arange(width, device=matrices.device) - (width - 1) / 2
    y = torch.arange(height, device=matrices.device)[:, None] - (height - 1) / 2
    parts = matrices[..., None, None].unbind(2)
    from_x, from_y = (parts[0] * x + parts[1] * y + parts[2]).flatten(2).unbind(1)
    return from_x + (width - 1) / 2, from_y + (height - 1) / 2


def _inside(place: Float[Tensor, "b n"], size: int, padding: Padding) -> Float[Tensor, "b n"]:
    """Bring places outside the grid back into it."""
    if padding == "reflection":  # folds a line of period 2 size at the edges -1/2 and size - 1/2
        place = size - (torch.remainder(place + 0.5, 2 * size) - size).abs() - 0.5
    return place.clamp(0, size - 1)


def _taps(
    place: Float[Tensor, "b n"], interpolation: Interpolation
) -> tuple[Int[Tensor, "b n k"], Float[Tensor, "b n k"]]:
    """Return the cells along one axis that a place is read from, and their weights."""
    if interpolation == "nearest":
        nearest = (place + 0.5).floor().long()[..., None]
        return nearest, torch.ones_like(place)[..., None]
    below = place.floor()
    beyond = place - below
    cells = below.long()[..., None] + torch.arange(2, device=place.device)
    return cells, torch.stack([1 - beyond, beyond], dim=-1)
