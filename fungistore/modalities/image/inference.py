"""The one deterministic view: the model's own evaluation transform, as timm records it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image as PILImage
from timm.data import create_transform

from fungistore.modalities.views import Image


class InferenceView:
    """timm's evaluation transform without normalisation (resize and crop as the weights ask).

    Args:
        data_config: what `timm.data.resolve_model_data_config(model)` returns.
    """

    def __init__(self, data_config: Mapping[str, Any]) -> None:
        self._transform = create_transform(**data_config, is_training=False, normalize=False)

    def draw(self, image: Image) -> UInt8[np.ndarray, "3 s s"]:
        """Return the view of one image as uint8 pixels."""
        pixels: UInt8[np.ndarray, "3 s s"] = self._transform(PILImage.fromarray(image)).numpy()
        return pixels
