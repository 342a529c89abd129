"""Describable Textures Dataset, release 1.0.1.

Layout and order: torchvision's DTD, which the FUNGI paper's code reads: partition 1 of 10, where
train, val and test have 40 images a class each.
"""

from __future__ import annotations

from collections.abc import Iterator

from fungistore.sources.sets.facts import FUNGI, DataSet, DataSetLayout
from fungistore.sources.sets.image_set import ImageSet, Row
from fungistore.sources.sets.lists import read_lines
from fungistore.sources.sets.place import Place

_ARCHIVE = "from dtd-r1.0.1.tar.gz"
_LISTS = {split: f"labels/{split}1.txt" for split in ("train", "val", "test")}


class Dtd(ImageSet):
    """DTD."""

    data_set = DataSet(
        name="dtd",
        title="Describable Textures Dataset",
        splits=dict.fromkeys(_LISTS, 1880),
        classes=47,
        bytes=650_000_000,
        layouts=(
            DataSetLayout(
                "as the archive unpacks",
                dict.fromkeys((*_LISTS.values(), "images/"), _ARCHIVE),
                ("dtd", "dtd/dtd"),
            ),
        ),
        split_rule="official, partition 1",
        metric="top-1 accuracy",
        papers=(FUNGI,),
        terms="research",
        page="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
    )

    def classes(self, place: Place) -> list[str]:
        """Return the names of the folders, sorted."""
        return sorted({row.label for row in self.rows(place) if row.label})

    def rows(self, place: Place) -> Iterator[Row]:
        """Yield train, val and test, each in the order of its list."""
        for split, file in _LISTS.items():
            for line in read_lines(place.root / file):
                name, _ = line.split("/")
                yield Row(f"images/{line}", name, split)
