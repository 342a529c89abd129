"""A bank of images that belong together has all of them or none, and is tested on the others."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scene_world import CLASSES, SIDE, VOID, write_scenes

import fungistore as fungi
from fungistore.errors import MismatchError
from fungistore.segmentation.banks import open_bank
from tiny_world import TINY


@pytest.mark.slow
def test_a_bank_holds_out_whole_groups(tmp_path: Path, tiny_weights: Path) -> None:
    """Pairs of images, of which a fifth is tested on; another bank is not tested beside it."""
    images = tmp_path / "images"
    images.mkdir()
    table = write_scenes(images)
    rows = list(csv.reader(table.read_text().splitlines()))[1:]
    with table.open("w", newline="") as file:
        written = [(path, id_, mask, f"s{n // 2}") for n, (path, id_, _, mask) in enumerate(rows)]
        csv.writer(file).writerows([("path", "id", "mask", "scene"), *written])
    options = fungi.ExtractOptions(
        model=TINY,
        weights=str(tiny_weights),
        image_size=SIDE,
        crop="whole",
        features=("patches",),
        unit_rows=4,
    )
    store = tmp_path / "s.fungi"
    fungi.extract(table, store, options)
    fungi.annotate(store, options=fungi.AnnotateOptions(classes=CLASSES, void=VOID))
    fungi.build_bank(store, fungi.BankOptions(name="grouped", group="scene"))
    bank = open_bank(store, "grouped")
    assert bank.group == "scene"
    masked = np.arange(9)
    tested = np.setdiff1d(masked, bank.rows)
    assert not set((tested // 2).tolist()) & set((bank.rows // 2).tolist())
    asked = fungi.SegmentationOptions(banks=("grouped",), k=5)
    done = fungi.evaluate_segmentation(store, asked)
    assert done.scores[0].n_test == len(tested)
    assert done.protocol["split"]["group"] == "scene"
    fungi.build_bank(store, fungi.BankOptions(name="plain"))
    both = fungi.SegmentationOptions(banks=("grouped", "plain"), k=5)
    with pytest.raises(MismatchError, match="held out in different ways") as caught:
        fungi.evaluate_segmentation(store, both)
    assert caught.value.found == "grouped: scene, plain: none"
    with pytest.raises(MismatchError, match="other settings"):
        fungi.build_bank(store, fungi.BankOptions(name="grouped"))
