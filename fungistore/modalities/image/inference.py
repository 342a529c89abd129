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


class InferenceView:
    """timm's evaluation transform without normalisation (resize and crop as the weights ask).

    Args:
        data_config: what `timm.data.resolve_model_data_config(model)` returns.
    """

    def __init__(self, data_config: Mapping[str, Any]) -> None:
        self._transform = create_transform(**data_config, is_training=False, normalize=False)
        self.groups = (ViewGroup(1, data_config["input_size"][-1]),)

    def on(self, device: torch.device) -> PixelRecipe:
        """Return itself: one view travels as it is."""
        return self

    def draw(self, item: Image, random: Stream) -> tuple[UInt8[np.ndarray, "3 s s"]]:
        """Return the view of one image as uint8 pixels [3, s, s]; nothing here is random."""
        return (self._transform(PILImage.fromarray(item)).numpy(),)

    def render(
        self, drawn: tuple[UInt8[Tensor, "b 3 s s"], ...], group: int, views: slice
    ) -> Float[Tensor, "b v 3 s s"]:
        """Return the drawn view as float32 in [0, 1]."""
        return drawn[0][:, None][:, views].float() / 255
