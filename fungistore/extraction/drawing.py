"""From a row of the sample table to what its item sends to the device: an image cut and resized."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from fungistore.errors import ItemError
from fungistore.modalities.image.inference import InferenceView
from fungistore.modalities.modality import Modality
from fungistore.modalities.reading import read_item
from fungistore.modalities.views import Image, ViewRecipe
from fungistore.randomness import Stream
from fungistore.store.failures import Failure

Drawn = dict[str, tuple[NDArray[Any], ...]]
BASE = "base"  # the view that embeddings, patch tensors and one-view objectives share


@dataclass(frozen=True)
class Drawer:
    """Draws the views of images; safe in any thread, and small enough to send to a process.

    Attributes:
        modality: reads the items.
        base: the view of features that have none of their own.
        recipes: the views of those that have, by feature.
        seed: seed of the views.
    """

    modality: Modality
    base: InferenceView
    recipes: Mapping[str, ViewRecipe]
    seed: int

    def draw(self, image: Image, sample_id: str, features: Iterable[str]) -> Drawn:
        """Return what one image sends to the device for these features."""
        drawn: Drawn = {}
        for name in sorted(features):
            recipe = self.recipes.get(name)
            if recipe is not None:
                drawn[name] = recipe.draw(image, Stream(self.seed, "views", name, sample_id))
            elif BASE not in drawn:
                drawn[BASE] = (self.base.draw(image),)
        return drawn


@dataclass(frozen=True)
class DrawnImage:
    """One image as it is drawn; a blank one and a failure if it cannot be read.

    `decoding` and `drawing` are the seconds that it took.
    """

    drawn: Drawn
    failure: Failure | None
    decoding: float
    drawing: float


def draw_row(drawer: Drawer, row: Mapping[str, Any], features: frozenset[str]) -> DrawnImage:
    """Read and draw the image of a row of the sample table."""
    failure = None
    began = time.perf_counter()
    try:
        image = read_item(drawer.modality, row["root"], row["uri"])
    except ItemError as error:
        image = drawer.modality.blank()
        failure = Failure(row["row"], row["uri"], type(error).__name__, error.what)
    decoded = time.perf_counter()
    drawn = drawer.draw(image, row["id"], features)
    return DrawnImage(drawn, failure, decoded - began, time.perf_counter() - decoded)
