"""Epochs of a bank beyond the first: random crops and colours of images, masks along with them.

As FUNGI's reference code augments (its `image_transformations`): four jitters of colour, each with
probability one half, then a resized crop of an area of half to twice the image's, of which those
beyond it are drawn again, as torchvision's RandomResizedCrop does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional

from fungistore.extraction.batches import stack_drawn
from fungistore.extraction.replay import Replay, replay_extraction, rounded
from fungistore.machine.context import Context
from fungistore.matrices.blocks import Vectors
from fungistore.matrices.tokens import TokenMatrix
from fungistore.modalities.reading import read_item
from fungistore.randomness import Stream
from fungistore.segmentation.bank_options import BankOptions

JITTER = 0.1  # of brightness, contrast, saturation and hue (FUNGI, table 23)
APPLIED = 0.5
AREA, RATIO = (0.5, 2.0), (3 / 4, 4 / 3)
ATTEMPTS = 10  # torchvision's

Pixels = NDArray[np.uint8]
Labels = NDArray[np.uint16]


@dataclass(frozen=True)
class Augmenter:
    """Makes the tokens and masks of augmented images by the model that made the stored ones."""

    tokens: TokenMatrix
    replay: Replay
    seed: int

    @classmethod
    def load(cls, tokens: TokenMatrix, options: BankOptions, context: Context) -> Augmenter:
        """Load the model.

        Raises:
            UsageError: the weights, or the device, are not there, or the features were imported.
            MismatchError: the weights are not the same any more.
        """
        replay = replay_extraction(
            tokens.store, tokens.feature_set, tokens.arrays, choice=options, context=context
        )
        return cls(tokens, replay, options.seed)

    def view(self, row: Mapping[str, Any], mask: Labels, epoch: int) -> tuple[Vectors, Labels]:
        """Return the tokens [h, w, dim] and the mask of one random view of a sample.

        Raises:
            ItemError: its image cannot be read any more.
        """
        maker, arrays = self.replay.maker, self.tokens.arrays
        image = read_item(self.replay.resolved.modality, row["root"], row["uri"])
        random = Stream(self.seed, "bank", "augment", row["id"], str(epoch))
        view, labels = augmented(image, mask, random)
        wanted = frozenset(arrays)
        drawn = maker.drawer.draw(view, f"{row['id']}\0{epoch}", wanted)
        made = maker.compute(stack_drawn([drawn]), wanted)
        blocks = {n: rounded(made[array.feature.path], array) for n, array in arrays.items()}
        return self.tokens.joined(blocks)[0], labels


def augmented(image: Pixels, mask: Labels, random: Stream) -> tuple[Pixels, Labels]:
    """Return a random crop of an image [h, w, 3] in other colours, and of its mask the same.

    Raises:
        ValueError: the mask is of another size.
    """
    if image.shape[:2] != mask.shape:
        raise ValueError(f"an image of {image.shape[:2]} and a mask of {mask.shape}")
    applied, strength = random.uniform(4), random.uniform(4) * 2 * JITTER - JITTER
    pixels = torch.from_numpy(image).movedim(2, 0)
    adjustments = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
    )
    for adjust, chance, change in zip(adjustments, applied[:3], strength[:3], strict=True):
        if chance < APPLIED:
            pixels = adjust(pixels, 1 + float(change))
    if applied[3] < APPLIED:
        pixels = functional.adjust_hue(pixels, float(strength[3]))
    top, left, height, width = random_crop(mask.shape[0], mask.shape[1], random)
    part = slice(top, top + height), slice(left, left + width)
    return np.ascontiguousarray(pixels.movedim(0, 2).numpy()[part]), mask[part]


def random_crop(height: int, width: int, random: Stream) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a crop, by the rule of RandomResizedCrop."""
    for _ in range(ATTEMPTS):
        area, ratio, down, across = random.uniform(4)
        wanted = height * width * (AREA[0] + area * (AREA[1] - AREA[0]))
        low, high = (math.log(one) for one in RATIO)
        shape = math.exp(low + ratio * (high - low))
        wide, tall = round(math.sqrt(wanted * shape)), round(math.sqrt(wanted / shape))
        if 0 < wide <= width and 0 < tall <= height:
            top, left = int(down * (height - tall + 1)), int(across * (width - wide + 1))
            return top, left, tall, wide
    shape = min(max(width / height, RATIO[0]), RATIO[1])
    wide, tall = min(width, round(height * shape)), min(height, round(width / shape))
    return (height - tall) // 2, (width - wide) // 2, tall, wide
