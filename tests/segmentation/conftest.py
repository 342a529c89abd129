"""A store of images with masks, and a bank of its patches: what predictions are tested on."""

from __future__ import annotations

from pathlib import Path

import pytest
from scene_world import CLASSES, SIDE, VOID, write_scenes

import fungistore as fungi
from fungistore.store.store import Store
from tiny_world import TINY


@pytest.fixture(scope="session")
def scenes(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of the images and masks, with tokens of whole images; no test may change it."""
    folder = tmp_path_factory.mktemp("scenes")
    options = fungi.ExtractOptions(
        model=TINY,
        weights=str(tiny_weights),
        image_size=SIDE,
        crop="whole",
        features=("patches",),
        unit_rows=4,
    )
    store = folder / "scenes.fungi"
    fungi.extract(write_scenes(folder), store, options)
    fungi.annotate(store, options=fungi.AnnotateOptions(classes=CLASSES, void=VOID))
    fungi.build_bank(store, fungi.BankOptions(name="all"))
    fungi.build_bank(store, fungi.BankOptions(name="few", size=30))
    return Store.open(store)
