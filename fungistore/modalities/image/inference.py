"""The one deterministic view: the model's own evaluation transform, as timm records it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image as PILImage
from timm.data import create_transform
from torch import Tensor

from fungistore.modalities.image.pixels import Image, PixelRecipe
from fungistore.modalities.views import ViewGroup
from fungistore.randomness import Stream

MOST_ELONGATED = 64  # long sides for each short one; what is beyond would be resized and cut off


class InferenceView:
    """timm's evaluation transform without normalisation (resize and crop as the weights ask).

    Where it brings the short side to size and then crops the centre, it is given no more than the
    centre of a very long image: resizing a line of 400,000 pixels first would take 300 GB.

    Args:
        data_config: what `timm.data.resolve_model_data_config(model)` returns.
    """

    def __init__(self, data_config: Mapping[str, Any]) -> None:
        self._transform = create_transform(**data_config, is_training=False, normalize=False)
        self._crops_centre = data_config["crop_mode"] == "center"
        self.groups = (ViewGroup(1, data_config["input_size"][-1]),)

    def on(self, device: torch.device) -> PixelRecipe:
        """Return itself: one view travels as it is."""
        return self

    def draw(self, item: Image, random: Stream) -> tuple[UInt8[np.ndarray, "3 s s"]]:
        """Return the view of one image as uint8 pixels [3, s, s]; nothing here is random."""
        if self._crops_centre:
            item = centre_of(item)
        return (self._transform(PILImage.fromarray(item)).numpy(),)

    def render(
        self, drawn: tuple[UInt8[Tensor, "b 3 s s"], ...], group: int, views: slice
    ) -> Float[Tensor, "b v 3 s s"]:
        """Return the drawn view as float32 in [0, 1]."""
        return drawn[0][:, None][:, views].float() / 255


def centre_of(image: Image) -> UInt8[np.ndarray, "_ _ 3"]:
    """Cut off the ends of an image that is more than 64 times as long as it is wide."""
    return image[
        tuple(_middle(length, MOST_ELONGATED * min(image.shape[:2])) for length in image.shape[:2])
    ]


def _middle(length: int, most: int) -> slice:
    start = max(0, length - most) // 2
    return slice(start, length - start)
