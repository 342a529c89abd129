"""Food-101.

Layout and order: torchvision's Food101, which the FUNGI paper's code reads: class after class in
the order of train.json and test.json. Names are those of labels.txt, in the order of classes.txt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from fungistore.sources.sets.facts import FUNGI, DataSet, DataSetLayout
from fungistore.sources.sets.image_set import ImageSet, Row
from fungistore.sources.sets.lists import read_lines, read_text
from fungistore.sources.sets.place import Place

_CLASSES, _LABELS = "meta/classes.txt", "meta/labels.txt"
_LISTS = {split: f"meta/{split}.json" for split in ("train", "test")}


class Food101(ImageSet):
    """Food-101."""

    data_set = DataSet(
        name="food101",
        title="Food-101",
        splits={"train": 75_750, "test": 25_250},
        classes=101,
        bytes=5_300_000_000,
        layouts=(
            DataSetLayout(
                "as the archive unpacks",
                dict.fromkeys(
                    (_CLASSES, _LABELS, *_LISTS.values(), "images/"), "from food-101.tar.gz"
                ),
                ("food-101", "food-101/food-101"),
            ),
        ),
        split_rule="official (meta/)",
        metric="top-1 accuracy",
        papers=(FUNGI,),
        terms="scientific fair use; the images are Foodspotting's",
        page="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
    )

    def classes(self, place: Place) -> list[str]:
        """Return the names of labels.txt."""
        return list(_names(place).values())

    def rows(self, place: Place) -> Iterator[Row]:
        """Yield train, then test."""
        names = _names(place)
        for split, file in _LISTS.items():
            for name, paths in json.loads(read_text(place.root / file)).items():
                for path in paths:
                    yield Row(f"images/{path}.jpg", names[name], split)


def _names(place: Place) -> dict[str, str]:
    folders, labels = (read_lines(place.root / file) for file in (_CLASSES, _LABELS))
    return dict(zip(folders, labels, strict=True))
