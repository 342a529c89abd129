"""Views that are pixels, and the normalisation that makes an image model's inputs of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from fungistore.modalities.views import Drawn, DrawnBatch, ViewGroup, ViewRecipe
from fungistore.randomness import Stream

Image = UInt8[np.ndarray, "height width 3"]
Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation of each channel


@runtime_checkable
class PixelRecipe(Protocol):
    """A view recipe of images that stops at pixels, before they are normalised."""

    @property
    def groups(self) -> tuple[ViewGroup, ...]:
        """The views in order, grouped by their size: pixels a side."""

    def on(self, device: torch.device) -> PixelRecipe:
        """Return the recipe of the same views that suits a device best."""

    def draw(self, image: Image, random: Stream) -> Drawn:
        """Return the arrays to send for one image; bytes are pixels."""

    def render(
        self, drawn: tuple[Shaped[Tensor, "b ..."], ...], group: int, views: slice
    ) -> Float[Tensor, "b v 3 s s"]:
        """Return some views of a group as float32 pixels in [0, 1] (or a little outside it)."""


@dataclass(frozen=True)
class NormalizedViews:
    """The views of a pixel recipe as an image model takes them.

    Attributes:
        pixels: the recipe.
        statistics: what the pixels are normalised by.
    """

    pixels: PixelRecipe
    statistics: Statistics

    @property
    def groups(self) -> tuple[ViewGroup, ...]:
        """Those of the pixel recipe."""
        return self.pixels.groups

    def on(self, device: torch.device) -> ViewRecipe:
        """Return the same views, made where they are made fastest."""
        return NormalizedViews(self.pixels.on(device), self.statistics)

    def draw(self, item: Image, random: Stream) -> Drawn:
        """Return what the pixel recipe sends for one image."""
        return self.pixels.draw(item, random)

    def render(
        self, drawn: DrawnBatch, group: int, views: slice
    ) -> tuple[Float[Tensor, "b v 3 s s"]]:
        """Return normalised pixels."""
        pixels = self.pixels.render(drawn, group, views)
        mean, std = (_on_channels(values, pixels) for values in self.statistics)
        return ((pixels - mean) / std,)


def _on_channels(values: tuple[float, ...], like: Tensor) -> Float[Tensor, "3 1 1"]:
    """Return a value a channel; filled in, since a copy from the host would wait for a GPU."""
    return torch.stack([like.new_full((1, 1), value) for value in values])
