"""NABirds of the Cornell Lab of Ornithology, version 1.

Layout: README of nabirds.tar.gz. classes.txt also has the 456 groups above the 555 classes that
images have; the classes are in the order of their numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

from fungistore.sources.sets.birds import birds_needs, birds_rows
from fungistore.sources.sets.facts import LOFF_TA, DataSet, DataSetLayout
from fungistore.sources.sets.image_set import ImageSet, Row
from fungistore.sources.sets.lists import read_pairs, told_apart
from fungistore.sources.sets.place import Place


class Nabirds(ImageSet):
    """NABirds."""

    data_set = DataSet(
        name="nabirds",
        title="NABirds",
        splits={"train": 23_929, "test": 24_633},
        classes=555,
        bytes=9_400_000_000,
        layouts=(
            DataSetLayout("as the archive unpacks", birds_needs("nabirds.tar.gz"), ("nabirds",)),
        ),
        split_rule="official (train_test_split.txt)",
        metric="top-1 accuracy",
        papers=(LOFF_TA,),
        terms="non-commercial research, by its terms of use",
        page="https://dl.allaboutbirds.org/nabirds",
    )

    def classes(self, place: Place) -> list[str]:
        """Return the names of the classes that images have."""
        return list(_names(place).values())

    def rows(self, place: Place) -> Iterator[Row]:
        """Yield train, then test."""
        return birds_rows(place.root, _names(place))


def _names(place: Place) -> dict[str, str]:
    names = read_pairs(place.root / "classes.txt")
    used = set(read_pairs(place.root / "image_class_labels.txt").values())
    return told_apart({key: names[key] for key in sorted(used, key=int)})
