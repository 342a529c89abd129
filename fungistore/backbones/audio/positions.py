"""Positions of an audio spectrogram transformer for another number of frames, as SSAST has it."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from fungistore.errors import UsageError

Grid = tuple[int, int]  # patches along frequency, and along time


def grid_of(bins: int, frames: int, patch: Grid, stride: Grid) -> Grid:
    """Return how many patches fit into a filter bank.

    Raises:
        UsageError: none does.
    """
    if frames < patch[1]:
        raise UsageError(
            "the recording is shorter than one patch of the model",
            where=f"--max-length {frames}",
            expected=f"{patch[1]} frames or more",
        )
    return (bins - patch[0]) // stride[0] + 1, (frames - patch[1]) // stride[1] + 1


def positions_for(
    trained: Float[Tensor, "f t d"], grid: Grid
) -> Float[Tensor, "frequencies times d"]:
    """Return the positions of another grid: the middle of the trained ones, or in between them.

    Fewer times are the trained positions' middle ones, more are interpolated; then the same along
    frequency. Equal numbers change nothing.
    """
    positions = trained.movedim(-1, 0)[None]
    for axis, wanted in ((3, grid[1]), (2, grid[0])):
        there = positions.shape[axis]
        if wanted < there:
            positions = positions.narrow(axis, there // 2 - wanted // 2, wanted)
        elif wanted > there:
            size = [*positions.shape[2:]]
            size[axis - 2] = wanted
            positions = nn.functional.interpolate(positions, size=size, mode="bilinear")
    return positions[0].movedim(0, -1)
