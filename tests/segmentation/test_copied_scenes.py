"""Masks, banks and shards are copied as they are, up and down."""

from __future__ import annotations

from pathlib import Path

import pytest
from scene_world import CLASSES, SIDE, VOID, write_scenes

import fungistore as fungi
from fungistore.copying.stage import copy_store
from fungistore.machine.context import QUIET
from fungistore.store.store import Store
from tiny_world import TINY

pytestmark = pytest.mark.usefixtures("own_cache")


def files(root: Path) -> dict[str, bytes]:
    """Return what a store's directory holds but locks."""
    paths = (path for path in root.rglob("*") if path.is_file() and ".locks" not in path.parts)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def there_and_back(store: Path, tmp_path: Path) -> str:
    """Copy a store up and down, compare its files and verify both; returns the URL."""
    url, back = f"memory://{tmp_path.name}", tmp_path / "back.fungi"
    copy_store(store, url, context=QUIET)
    copy_store(url, back, context=QUIET)
    assert files(back) == files(store)
    assert fungi.verify_store(url).is_sound
    assert fungi.verify_store(back).is_sound
    return url


@pytest.mark.slow
def test_masks_and_banks_are_copied(scenes: Store, tmp_path: Path) -> None:
    """They come back byte by byte, and a picture is segmented alike from the URL."""
    names = files(scenes.root)
    assert any(name.startswith("annotations/") for name in names)
    assert any("/bank/" in name for name in names)
    url = there_and_back(scenes.root, tmp_path)
    options = fungi.SegmentationOptions(banks=("few",), k=3)
    scores = [
        fungi.evaluate_segmentation(one, options, context=QUIET).to_json()["scores"]
        for one in (scenes.root, url)
    ]
    assert scores[0] == scores[1]


def test_shards_are_copied_whole(tiny_weights: Path, tmp_path: Path) -> None:
    """Two chunks a file, also of a bank: they come back byte by byte, and are read from the URL."""
    options = fungi.ExtractOptions(
        model=TINY,
        weights=str(tiny_weights),
        image_size=SIDE,
        crop="whole",
        features=("embeddings", "patches"),
        unit_rows=2,
        shard_units=2,
    )
    store = tmp_path / "sharded.fungi"
    fungi.extract(write_scenes(tmp_path), store, options)
    fungi.annotate(store, options=fungi.AnnotateOptions(classes=CLASSES, void=VOID))
    fungi.build_bank(store, fungi.BankOptions(name="all"))
    again = fungi.build_bank(store, fungi.BankOptions(name="all"))
    assert again.units_computed == 0
    url = there_and_back(store, tmp_path)
    mine, theirs = (Store.open(one).arrays("test_vit") for one in (store, url))
    assert {"embeddings", "patches", "bank/all", "bank-labels/all"} <= mine.keys()
    for name, array in mine.items():
        assert array.read(0, array.rows).tobytes() == theirs[name].read(0, array.rows).tobytes()
        assert array.shard_units == 2
