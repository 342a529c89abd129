"""Multi-crop views of DINO: random resized crops, two global and ten local in the paper.

On a CPU the loader's threads resize them with Pillow. A GPU would wait for that: there the images
travel as they are, and the device cuts and resizes a whole batch at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from PIL import Image as PILImage
from torch import Tensor

from fungistore.modalities.image.pixels import Image, PixelRecipe
from fungistore.modalities.image.resample import resized_crops
from fungistore.modalities.views import ViewGroup
from fungistore.randomness import Stream

ASPECT_RATIO = (3 / 4, 4 / 3)  # torchvision's RandomResizedCrop default, which the paper keeps
MOST_PADDING = 4  # an image's share of a batch, for each pixel of its views
ATTEMPTS = 10  # tries before the fallback, as in torchvision's RandomResizedCrop


@dataclass(frozen=True)
class SizedFamily:
    """`count` random crops: area as a fraction of the image's within `scale`, shown at `size`."""

    count: int
    size: int
    scale: tuple[float, float]


@dataclass(frozen=True)
class RandomCrops:
    """Random resized crops (bicubic, no colour change, no flip), family by family.

    Source: FUNGI, appendix (vision hyper-parameters); the sampling follows torchvision's
    RandomResizedCrop, with its random numbers replaced by the sample's own stream.
    """

    families: tuple[SizedFamily, ...]

    @property
    def groups(self) -> tuple[ViewGroup, ...]:
        """One group a family."""
        return tuple(ViewGroup(family.count, family.size) for family in self.families)

    def on(self, device: torch.device) -> PixelRecipe:
        """Return the same crops, resized on the device if that is a GPU."""
        return DeviceCrops(self) if device.type == "cuda" else self

    def boxes(self, image: Image, random: Stream) -> list[Int[np.ndarray, "_ 4"]]:
        """Return the boxes of each family; see `crop_boxes`."""
        height, width = image.shape[:2]
        return [crop_boxes(height, width, family, random) for family in self.families]

    def draw(self, image: Image, random: Stream) -> tuple[UInt8[np.ndarray, "_ 3 _ _"], ...]:
        """Crop and resize with Pillow; one uint8 array a family."""
        source = PILImage.fromarray(image)
        drawn = []
        for family, boxes in zip(self.families, self.boxes(image, random), strict=True):
            size = (family.size, family.size)
            views = [
                np.asarray(source.crop(tuple(box)).resize(size, PILImage.Resampling.BICUBIC))
                for box in boxes.tolist()
            ]
            drawn.append(np.ascontiguousarray(np.stack(views).transpose(0, 3, 1, 2)))
        return tuple(drawn)

    def render(
        self, drawn: tuple[UInt8[Tensor, "b _ 3 _ _"], ...], group: int, views: slice
    ) -> Float[Tensor, "b v 3 s s"]:
        """Return the drawn crops as float32 in [0, 1]."""
        return drawn[group][:, views].float() / 255


@dataclass(frozen=True)
class DeviceCrops:
    """Random crops that are cut and resized on the device; the same boxes as `crops` draws.

    An image larger than all of its views together is not worth sending, nor is a very long one,
    to whose length a whole batch would be padded: the loader resizes its views after all, and
    sends them as one image with a box around each.
    """

    crops: RandomCrops

    @property
    def groups(self) -> tuple[ViewGroup, ...]:
        """One group a family."""
        return self.crops.groups

    def on(self, device: torch.device) -> PixelRecipe:
        """Return itself."""
        return self

    def draw(
        self, image: Image, random: Stream
    ) -> tuple[UInt8[np.ndarray, "3 _ _"], Int[np.ndarray, "_ 4"]]:
        """Return what is to be sent: one image, and the box of each view in it."""
        views = sum(group.count * group.size**2 for group in self.groups)
        height, width = image.shape[:2]
        if height * width > views or max(height, width) ** 2 > MOST_PADDING * views:
            return _side_by_side(self.crops.draw(image, random))
        boxes = np.concatenate(self.crops.boxes(image, random))
        return np.ascontiguousarray(image.transpose(2, 0, 1)), boxes.astype(np.int64)

    def render(
        self, drawn: tuple[Shaped[Tensor, "b ..."], ...], group: int, views: slice
    ) -> Float[Tensor, "b v 3 s s"]:
        """Cut and resize some boxes of a group."""
        pixels, boxes = drawn
        first = sum(before.count for before in self.groups[:group])
        here = boxes[:, first : first + self.groups[group].count][:, views].numpy()
        return resized_crops(pixels, here, self.groups[group].size)


def _side_by_side(
    drawn: tuple[UInt8[np.ndarray, "_ 3 _ _"], ...],
) -> tuple[UInt8[np.ndarray, "3 _ _"], Int[np.ndarray, "_ 4"]]:
    """Lay views out in one image, a row a family; return it and the box of each view."""
    sides = [crops.shape[-1] for crops in drawn]
    canvas = np.zeros((3, sum(sides), max(len(c) * c.shape[-1] for c in drawn)), np.uint8)
    boxes = []
    top = 0
    for crops, side in zip(drawn, sides, strict=True):
        canvas[:, top : top + side, : len(crops) * side] = np.concatenate(list(crops), axis=-1)
        boxes += [(n * side, top, (n + 1) * side, top + side) for n in range(len(crops))]
        top += side
    return canvas, np.array(boxes, np.int64)


def crop_boxes(
    height: int, width: int, family: SizedFamily, random: Stream
) -> Int[np.ndarray, "v 4"]:
    """Return crop boxes (left, top, right, bottom) in pixels, right and bottom exclusive.

    Always consumes the same count of random numbers, whatever the image's shape: each crop takes
    the first of ten attempts that fits, or else the largest centred box of an allowed aspect ratio.
    """
    draws = random.uniform(4, family.count, ATTEMPTS)
    low, high = family.scale
    area = height * width * (low + (high - low) * draws[0])
    log_low, log_high = np.log(ASPECT_RATIO)
    aspect = np.exp(log_low + (log_high - log_low) * draws[1])
    widths = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    heights = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)

    first = fits.argmax(axis=1)
    rows = np.arange(family.count)
    crop_width, crop_height = widths[rows, first], heights[rows, first]
    top = np.floor(draws[2][rows, first] * (height - crop_height + 1)).astype(np.int64)
    left = np.floor(draws[3][rows, first] * (width - crop_width + 1)).astype(np.int64)

    none_fits = ~fits.any(axis=1)
    if none_fits.any():
        centre_width = min(width, max(1, round(height * ASPECT_RATIO[1])))
        centre_height = min(height, max(1, round(width / ASPECT_RATIO[0])))
        crop_width = np.where(none_fits, centre_width, crop_width)
        crop_height = np.where(none_fits, centre_height, crop_height)
        left = np.where(none_fits, (width - crop_width) // 2, left)
        top = np.where(none_fits, (height - crop_height) // 2, top)
    return np.stack([left, top, left + crop_width, top + crop_height], axis=1)
