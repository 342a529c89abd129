"""From a row of the sample table to what its item sends to the device."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fungistore.errors import ItemError
from fungistore.location import shortened
from fungistore.modalities.modality import Modality
from fungistore.modalities.reading import (
    digest_item,
    read_with_digest,
    reason_of,
    rescue_item,
)
from fungistore.modalities.views import Drawn, ViewRecipe
from fungistore.randomness import Stream
from fungistore.store.failures import TRUNCATED, Failure
from fungistore.store.feature import objective_name
from fungistore.store.item_digests import FAILED, UNKNOWN

DrawnViews = dict[str, Drawn]  # of one item, by the name of the views
BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))  # float32 rounds larger numbers to 1
FETCHED = "fetched"  # in a row: its item's bytes, or what went wrong, if they were asked for ahead
BASE = "embeddings"  # the view that they share with patch tensors and one-view objectives


@dataclass(frozen=True)
class Drawer:
    """Draws the views of items; safe in any thread, and small enough to send to a process.

    Attributes:
        modality: reads the items.
        base: the view of features that have none of their own.
        recipes: the views of those that have, by objective.
        seed: seed of the views.
        rescues: whether an item that ends too early is read as far as it goes, and noted.
        draws: how many random numbers an objective gets of each sample, beside the view.
    """

    modality: Modality
    base: ViewRecipe
    recipes: Mapping[str, ViewRecipe]
    seed: int
    rescues: bool = False
    draws: Mapping[str, int] = field(default_factory=dict)

    def recipe(self, name: str) -> ViewRecipe:
        """Return the views that are drawn under a name: an objective's, or BASE."""
        return self.base if name == BASE else self.recipes[name]

    def draw(self, item: Any, sample_id: str, features: Iterable[str]) -> DrawnViews:
        """Return what one item sends to the device for these features."""
        drawn: DrawnViews = {}
        for name in sorted(set(map(objective_name, features))):
            views = name if name in self.recipes else BASE
            if views not in drawn:
                random = Stream(self.seed, "views", views, sample_id)
                drawn[views] = self.recipe(views).draw(item, random)
            if name in self.draws:
                numbers = Stream(self.seed, "tokens", name, sample_id).uniform(self.draws[name])
                drawn[name] = (np.minimum(numbers.astype(np.float32), BELOW_ONE),)
        return drawn


@dataclass(frozen=True)
class DrawnItem:
    """One item as it is drawn; a blank one and a failure if it cannot be read.

    One that was rescued has a failure, too, whose error is TRUNCATED: its row counts.

    `decoding` and `drawing` are the seconds that it took, `digest` is that of its bytes, or what
    `fungistore.store.item_digests` has in its place.
    """

    drawn: DrawnViews
    failure: Failure | None
    decoding: float
    drawing: float
    digest: int


def draw_row(drawer: Drawer, row: Mapping[str, Any], features: frozenset[str]) -> DrawnItem:
    """Read and draw the item of a row of the sample table; one that is in memory is in `item`."""
    began = decoded = time.perf_counter()
    modality, failure, digest = drawer.modality, None, UNKNOWN
    try:
        if "item" in row:
            item = row["item"]
        else:
            item, digest, failure = _read(drawer, row)
        decoded = time.perf_counter()
        drawn = _drawn(drawer, item, row, features)
    except ItemError as error:
        failure = Failure(row["row"], row["uri"], type(error).__name__, error.what)
        drawn, digest = drawer.draw(modality.blank(), row["id"], features), FAILED
    return DrawnItem(drawn, failure, decoded - began, time.perf_counter() - decoded, digest)


def _read(drawer: Drawer, row: Mapping[str, Any]) -> tuple[Any, int, Failure | None]:
    """Return the item of a row, the digest of its bytes, and why it is not whole."""
    modality, root, uri = drawer.modality, row["root"], row["uri"]
    fetched = row.get(FETCHED)
    try:
        return *read_with_digest(modality, root, uri, fetched), None
    except ItemError as error:
        item = rescue_item(modality, root, uri, fetched) if drawer.rescues else None
        if item is None:
            raise
        try:
            digest = digest_item(root, uri)
        except (OSError, ValueError):  # it has gone meanwhile
            raise error from None
        return item, digest, Failure(row["row"], uri, TRUNCATED, error.what)


def _drawn(
    drawer: Drawer, item: Any, row: Mapping[str, Any], features: frozenset[str]
) -> DrawnViews:
    """Return the views of an item; one that has none is a failed input, not the end of a run.

    Raises:
        ItemError: the modality's own; an image of odd proportions can need any memory, for one.
            What no input can cause, such as a TypeError, ends the run.
    """
    try:
        return drawer.draw(item, row["id"], features)
    except (MemoryError, ValueError, ArithmeticError, OSError, RuntimeError) as error:
        modality = drawer.modality
        what = f"the {modality.item} has no views: {reason_of(error)}"
        raise modality.error(what, where=shortened(row["uri"])) from error
