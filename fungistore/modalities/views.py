"""What a set of views is: what a sample sends to the device, and the inputs made of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from fungistore.randomness import Stream

Inputs = tuple[Shaped[Tensor, "..."], ...]  # what an encoder takes: pixels, or ids and a mask
Drawn = tuple[Shaped[np.ndarray, "..."], ...]
DrawnBatch = tuple[Shaped[Tensor, "b ..."], ...]


@dataclass(frozen=True)
class ViewGroup:
    """Views of one size: `count` of them, `size` as the modality measures it, as pixels a side."""

    count: int
    size: int


@runtime_checkable
class ViewRecipe(Protocol):
    """Turns one sample into several views, in two steps.

    `draw` runs in a loader thread or process, once a sample, and returns what has to travel to the
    device; `render` runs beside the encoder, on a batch, and makes the inputs of a few views at a
    time, so that no batch ever holds all of its views.
    """

    @property
    def groups(self) -> tuple[ViewGroup, ...]:
        """The views in order, grouped by their size."""

    def on(self, device: torch.device) -> ViewRecipe:
        """Return the recipe of the same views that suits a device best."""

    def draw(self, item: Any, random: Stream) -> Drawn:
        """Return the arrays to send for one sample.

        Shapes may differ between samples. Those of an encoder whose lengths differ are computed
        with samples of their own shapes, so that none depends on its company: a recipe for one
        rounds lengths up, that there be few shapes. For other encoders a batch is padded with
        zeros at the end of each axis.
        """

    def render(self, drawn: DrawnBatch, group: int, views: slice) -> Inputs:
        """Return some views of a group as the encoder takes them: tensors [b, v, ...].

        Of `drawn`, bytes are on the device; arrays of other types are on the host. What is made
        of them on the host is sent to the device afterwards. Several threads may call at once.
        """


@dataclass(frozen=True)
class FirstViews:
    """The first views of a recipe, drawn as they are among all of them."""

    recipe: ViewRecipe
    count: int

    @property
    def groups(self) -> tuple[ViewGroup, ...]:
        """The groups that they are in; the last may be cut short."""
        groups, left = [], self.count
        for group in self.recipe.groups:
            if left > 0:
                groups.append(ViewGroup(min(group.count, left), group.size))
            left -= group.count
        return tuple(groups)

    def on(self, device: torch.device) -> FirstViews:
        """Return the same views of the recipe that suits a device best."""
        return FirstViews(self.recipe.on(device), self.count)

    def draw(self, item: Any, random: Stream) -> Drawn:
        """Return what all views are made of: the draws of one may depend on those before it."""
        return self.recipe.draw(item, random)

    def render(self, drawn: DrawnBatch, group: int, views: slice) -> Inputs:
        """Return some views of a group as the recipe makes them."""
        return self.recipe.render(drawn, group, views)


@runtime_checkable
class Measured(Protocol):
    """Views of samples of which an encoder may leave the end out: they tell how long those are."""

    def lengths(self, drawn: DrawnBatch) -> Shaped[Tensor, " b"]:
        """Return the whole length of each sample, float32, as `ViewGroup.size` measures it.

        One that is greater than that says that the sample's end was left out.
        """


def filled_up(drawn: DrawnBatch, count: int) -> tuple[Shaped[Tensor, "n ..."], ...]:
    """Return what was drawn for up to `count` samples with copies of the last one behind it."""
    missing = count - len(drawn[0])
    if not missing:
        return drawn
    return tuple(torch.cat([array, *[array[-1:]] * missing]) for array in drawn)


def count_views(recipe: ViewRecipe) -> int:
    """Return the number of views of one sample."""
    return sum(group.count for group in recipe.groups)


def in_chunks(recipe: ViewRecipe, views_at_once: int) -> Iterator[tuple[int, slice]]:
    """Yield (group, slice of its views) so that no chunk has more than `views_at_once` views."""
    for index, group in enumerate(recipe.groups):
        for start in range(0, group.count, views_at_once):
            yield index, slice(start, min(start + views_at_once, group.count))
