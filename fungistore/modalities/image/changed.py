"""DINO's full augmentation: crops whose sides, colours and sharpness change at random.

Source: Caron et al., "Emerging properties in self-supervised vision transformers", 2021, and its
code's DataAugmentationDINO (FUNGI, table 18, compares it with crops alone).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from fungistore.modalities.image.colours import (
    blurred,
    brightened,
    contrasted,
    grey,
    recoloured,
    saturated,
    solarised,
)
from fungistore.modalities.image.pixels import Image, PixelRecipe
from fungistore.modalities.requests import Changes
from fungistore.modalities.views import Drawn, ViewGroup
from fungistore.randomness import Stream

JITTERS = (brightened, contrasted, saturated, recoloured)
# What is drawn of a view, a column each: what is 1 where it is done, else 0, the radius of the
# blur or 0, which of the four jitters comes first, second ..., or -1, and the amount of each.
FLIP, IS_GREY, RADIUS, IS_SOLARISED = range(4)
ORDER, AMOUNTS = slice(4, 8), slice(8, 12)
COLUMNS = 12
NUMBERS = 14  # random ones that a view takes, whatever happens to it


@dataclass(frozen=True)
class ChangedViews:
    """The views of a pixel recipe, changed where the model is, in batches.

    Attributes:
        pixels: the recipe; it draws what it would draw alone, so views differ in changes alone.
        changes: what may be done to each of its views, in order.
    """

    pixels: PixelRecipe
    changes: tuple[Changes, ...]

    @property
    def groups(self) -> tuple[ViewGroup, ...]:
        """Those of the recipe."""
        return self.pixels.groups

    def on(self, device: torch.device) -> PixelRecipe:
        """Return the same views, cut where they are cut fastest."""
        return ChangedViews(self.pixels.on(device), self.changes)

    def draw(self, image: Image, random: Stream) -> Drawn:
        """Return what the recipe sends for one image, and what is to happen to each view."""
        drawn = self.pixels.draw(image, random)
        return (*drawn, drawn_changes(self.changes, random))

    def render(
        self, drawn: tuple[Shaped[Tensor, "b ..."], ...], group: int, views: slice
    ) -> Float[Tensor, "b v 3 s s"]:
        """Return some views of a group, changed."""
        *own, amounts = drawn
        pixels = self.pixels.render(tuple(own), group, views)
        first = sum(before.count for before in self.groups[:group])
        here = amounts[:, first : first + self.groups[group].count][:, views]
        return changed(pixels.flatten(0, 1), here.flatten(0, 1)).unflatten(0, pixels.shape[:2])


def drawn_changes(changes: tuple[Changes, ...], random: Stream) -> Float[np.ndarray, "v 12"]:
    """Return what happens to each view, by columns; see FLIP and those after it."""
    drawn = np.zeros((len(changes), COLUMNS), np.float32)
    uniform = random.uniform(len(changes), NUMBERS)
    for row, numbers, one in zip(drawn, uniform, changes, strict=True):
        flip, jitter, is_grey, blur, solarise, radius = numbers[:6]
        least, greatest = one.radius
        row[FLIP], row[IS_GREY] = flip < one.flip, is_grey < one.grey
        row[RADIUS] = (least + radius * (greatest - least)) * (blur < one.blur)
        row[IS_SOLARISED] = solarise < one.solarise
        row[ORDER] = np.argsort(numbers[6:10], kind="stable") if jitter < one.jitter else -1
        most = np.array([one.brightness, one.contrast, one.saturation, one.hue])
        row[AMOUNTS] = most * (2 * numbers[10:] - 1) + [1, 1, 1, 0]
    return drawn


def changed(
    pixels: Float[Tensor, "n 3 s s"], drawn: Float[Tensor, "n 12"]
) -> Float[Tensor, "n 3 s s"]:
    """Return views with their changes, in DINO's order; `drawn` is on the host."""
    amounts = drawn.to(pixels.device, non_blocking=True)
    pixels = torch.where(_is(amounts[:, FLIP]), pixels.flip(-1), pixels)
    for step in drawn[:, ORDER].unbind(1):
        for number, jitter in enumerate(JITTERS):
            if len(rows := _rows(step == number, pixels)):
                pixels[rows] = jitter(pixels[rows], amounts[rows, AMOUNTS][:, number])
    pixels = torch.where(_is(amounts[:, IS_GREY]), grey(pixels), pixels)
    radii = drawn[:, RADIUS]
    if len(rows := _rows(radii > 0, pixels)):
        pixels[rows] = blurred(pixels[rows], radii[radii > 0])
    return torch.where(_is(amounts[:, IS_SOLARISED]), solarised(pixels), pixels)


def _rows(chosen: Tensor, pixels: Tensor) -> Int64[Tensor, " k"]:
    return chosen.nonzero()[:, 0].to(pixels.device, non_blocking=True)


def _is(column: Tensor) -> Tensor:
    return (column > 0)[:, None, None, None]
