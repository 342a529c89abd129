"""SimCLR's "patchify" views: overlapping square windows of the image, in row-major order."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image as PILImage
from torch import Tensor
from torch.nn import functional

from fungistore.modalities.image.pixels import Image, PixelRecipe
from fungistore.modalities.views import ViewGroup
from fungistore.randomness import Stream


@dataclass(frozen=True)
class Patchify:
    """Sliding windows over the image squashed to a square.

    With the paper's numbers (224 pixels, 4 base patches, stride scale 6) a window is 112 pixels,
    the stride int(112 / 6) = 18, and there are 7 x 7 = 49 windows; the last 4 pixels at the right
    and bottom stay uncovered, as in the paper's code.

    Attributes:
        image_size: side of the squashed square, in pixels.
        base_patches: windows that would tile the square, a square number; sets the window's side.
        stride_scale: the stride is the window's side divided by it, rounded down.
        view_size: side at which a window is shown to the model.
    """

    image_size: int
    base_patches: int
    stride_scale: int
    view_size: int

    @property
    def window(self) -> int:
        """Side of a window in pixels."""
        return self.image_size // isqrt(self.base_patches)

    @property
    def stride(self) -> int:
        """Distance between neighbouring windows in pixels."""
        return max(1, self.window // self.stride_scale)

    @property
    def groups(self) -> tuple[ViewGroup, ...]:
        """One group: all windows have one size."""
        per_side = (self.image_size - self.window) // self.stride + 1
        return (ViewGroup(per_side**2, self.view_size),)

    def on(self, device: torch.device) -> PixelRecipe:
        """Return itself: one small square travels, and any device cuts the windows."""
        return self

    def draw(self, image: Image, random: Stream) -> tuple[UInt8[np.ndarray, "3 s s"], ...]:
        """Squash to the square (bicubic, antialiased, Pillow); nothing here is random."""
        size = (self.image_size, self.image_size)
        square = PILImage.fromarray(image).resize(size, PILImage.Resampling.BICUBIC)
        return (np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1)),)

    def render(
        self, drawn: tuple[UInt8[Tensor, "b 3 _ _"], ...], group: int, views: slice
    ) -> Float[Tensor, "b v 3 s s"]:
        """Cut the windows and resize them (bicubic, antialiased, not clamped), as float32."""
        window, stride = self.window, self.stride
        tiles = drawn[0].unfold(2, window, stride).unfold(3, window, stride)
        per_side = tiles.shape[2]
        chosen = torch.arange(per_side**2, device=tiles.device)[views]
        cut = tiles[:, :, chosen // per_side, chosen % per_side].transpose(1, 2).float() / 255
        if self.view_size == window:
            return cut
        resized = functional.interpolate(
            cut.flatten(0, 1), size=self.view_size, mode="bicubic", antialias=True
        )
        return resized.unflatten(0, cut.shape[:2])
