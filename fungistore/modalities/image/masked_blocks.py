"""Crops whose patches are masked in blocks, as BEiT and iBOT mask them; and the crops as they are.

Source: Bao et al., "BEiT", ICLR 2022, algorithm 1; Zhou et al., "iBOT", ICLR 2022, appendix. Where
no further block fits, single patches are masked, so that their number is what was drawn: so no mask
is empty, and none is beyond its range.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, log, sqrt

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray

from fungistore.modalities.image.pixels import Image
from fungistore.modalities.requests import MaskedBlocks
from fungistore.modalities.views import Drawn, DrawnBatch, Inputs, ViewGroup, ViewRecipe
from fungistore.randomness import Stream

ATTEMPTS = 10  # blocks that are tried in vain before single patches are taken, as in iBOT's code
LARGE = 3  # a block has at least the area of a square of a third of the grid's side, as there


@dataclass(frozen=True)
class MaskedCrops:
    """The views of a request `MaskedBlocks`: pixels, and which patches are masked.

    Attributes:
        crops: one group of crops, as a model takes them.
        request: what is masked of them.
        patch_size: pixels a side of a patch.
        is_learnt: whether the model has learnt what stands for a masked patch.
    """

    crops: ViewRecipe
    request: MaskedBlocks
    patch_size: int
    is_learnt: bool

    @property
    def groups(self) -> tuple[ViewGroup, ...]:
        """One group: the crops, and the masked crops."""
        (group,) = self.crops.groups
        return (replace(group, count=2 * group.count),)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What stands for a masked patch, for the user."""
        if self.is_learnt:
            return ("masked patches are the weights' own mask token",)
        return ("masked patches are the mean of a crop's: the weights have no mask token",)

    def on(self, device: torch.device) -> ViewRecipe:
        """Return the same views, their crops made where they are made fastest."""
        return replace(self, crops=self.crops.on(device))

    def draw(self, item: Image, random: Stream) -> Drawn:
        """Return what is drawn of the crops, and the mask of each of them."""
        drawn = self.crops.draw(item, random)
        (group,) = self.crops.groups
        side = group.size // self.patch_size
        masks = [block_mask(side, side, self.request, random) for _ in range(group.count)]
        return (*drawn, np.stack(masks).astype(np.uint8))

    def render(self, drawn: DrawnBatch, group: int, views: slice) -> Inputs:
        """Return pixels [b, v, 3, s, s] and bool [b, v, rows, columns]: nothing of whole crops."""
        *of_crops, masks = drawn
        count = masks.shape[1]
        chosen = range(2 * count)[views]
        crops = [view % count for view in chosen]
        first, last = min(crops), max(crops)
        (pixels,) = self.crops.render(tuple(of_crops), group, slice(first, last + 1))
        masked = torch.cat([torch.zeros_like(masks), masks], dim=1)[:, views].bool()
        return pixels[:, [crop - first for crop in crops]], masked


def block_mask(
    rows: int, columns: int, request: MaskedBlocks, random: Stream
) -> Bool[np.ndarray, "r c"]:
    """Return which patches of a grid are masked: blocks of them, as many as the request says."""
    least, most = request.counts(rows * columns)
    wanted = least + int(random.uniform(1)[0] * (most - least + 1))
    mask = np.zeros((rows, columns), dtype=bool)
    in_vain = 0
    while in_vain < ATTEMPTS and mask.sum() < wanted:
        missing = wanted - int(mask.sum())
        block = mask[_block(rows, columns, missing, request.aspect, random)]
        fresh = block.size - int(block.sum())
        fits = 0 < fresh <= missing
        block |= fits
        in_vain = 0 if fits else in_vain + 1
    return _completed(mask, wanted, random)


def _block(
    rows: int, columns: int, missing: int, aspect: float, random: Stream
) -> tuple[slice, slice]:
    """Return the place of a block of up to about `missing` patches; an empty one fits nowhere."""
    area, ratio, down, right = random.uniform(4)
    smallest = min(max(1, min(rows, columns) // LARGE) ** 2, missing)
    area = smallest + (missing - smallest) * area
    ratio = exp(log(aspect) * (2 * ratio - 1))
    height, width = round(sqrt(area * ratio)), round(sqrt(area / ratio))
    if height > rows or width > columns:
        return slice(0), slice(0)
    top, left = int(down * (rows - height + 1)), int(right * (columns - width + 1))
    return slice(top, top + height), slice(left, left + width)


def _completed(mask: NDArray[np.bool_], wanted: int, random: Stream) -> NDArray[np.bool_]:
    """Mask single patches, until there are enough."""
    free = np.flatnonzero(~mask)
    mask.flat[free[random.choice(len(free), wanted - int(mask.sum()))]] = True
    return mask
