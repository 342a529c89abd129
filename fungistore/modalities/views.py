"""What a set of views is: what an image sends to the device, and the views made from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from fungistore.randomness import Stream

Image = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class ViewGroup:
    """Views of one size: `count` of them, `size` pixels square."""

    count: int
    size: int


@runtime_checkable
class ViewRecipe(Protocol):
    """Turns one image into several views, in two steps.

    `draw` runs in a loader thread, once an image, and returns what has to travel to the device;
    `render` runs on the device, on a batch, and makes the pixels of a few views at a time, so that
    no batch ever holds all of its views.
    """

    @property
    def groups(self) -> tuple[ViewGroup, ...]:
        """The views in order, grouped by their size."""

    def on(self, device: torch.device) -> ViewRecipe:
        """Return the recipe of the same views that suits a device best."""

    def draw(self, image: Image, random: Stream) -> tuple[Shaped[np.ndarray, ...], ...]:
        """Return the arrays to send for one image.

        Shapes may differ between images; a batch is padded with zeros at the end of each axis.
        """

    def render(
        self, drawn: tuple[Shaped[Tensor, "b ..."], ...], group: int, views: slice
    ) -> Float[Tensor, "b v 3 s s"]:
        """Return some views of a group as float32 pixels in [0, 1] (or a little outside it).

        Of `drawn`, bytes are pixels, on the device; arrays of other types are on the host.
        """


def count_views(recipe: ViewRecipe) -> int:
    """Return the number of views of one image."""
    return sum(group.count for group in recipe.groups)


def in_chunks(recipe: ViewRecipe, views_at_once: int) -> Iterator[tuple[int, slice]]:
    """Yield (group, slice of its views) so that no chunk has more than `views_at_once` views."""
    for index, group in enumerate(recipe.groups):
        for start in range(0, group.count, views_at_once):
            yield index, slice(start, min(start + views_at_once, group.count))


def side_for(view_size: str | int, model_size: int, patch_size: int, extent: float) -> int:
    """Return the side in pixels at which a view is shown to the model.

    Args:
        view_size: "model" for the model's input size (the paper), "native" for as many pixels as
            the view would have if the whole image had the model's input size, or a side in pixels.
        model_size: the model's input size.
        patch_size: the side is rounded to a multiple of it.
        extent: the view's largest side as a fraction of the image's.
    """
    if view_size == "model":
        return model_size
    side = model_size * extent if view_size == "native" else float(view_size)
    return max(1, round(side / patch_size)) * patch_size
