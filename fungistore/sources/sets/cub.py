"""Caltech-UCSD Birds 200, 2011.

Layout: the README of CUB_200_2011.tgz. Order: `tools/cub_2011.py` of the FUNGI paper's code, which
goes through images.txt once a split.
"""

from __future__ import annotations

from collections.abc import Iterator

from fungistore.sources.sets.birds import birds_needs, birds_rows
from fungistore.sources.sets.facts import FUNGI, DataSet, DataSetLayout
from fungistore.sources.sets.image_set import ImageSet, Row
from fungistore.sources.sets.lists import read_pairs, readable
from fungistore.sources.sets.place import Place


class Cub(ImageSet):
    """CUB-200-2011; a class `001.Black_footed_Albatross` is called "Black footed Albatross"."""

    data_set = DataSet(
        name="cub",
        title="Caltech-UCSD Birds 200 (2011)",
        splits={"train": 5994, "test": 5794},
        classes=200,
        bytes=1_200_000_000,
        layouts=(
            DataSetLayout(
                "as the archive unpacks",
                birds_needs("CUB_200_2011.tgz"),
                ("CUB_200_2011", "CUB_200_2011/CUB_200_2011"),
            ),
        ),
        split_rule="official (train_test_split.txt)",
        metric="top-1 accuracy",
        papers=(FUNGI,),
        terms="non-commercial research and education",
        page="https://www.vision.caltech.edu/datasets/cub_200_2011/",
    )

    def classes(self, place: Place) -> list[str]:
        """Return the names of classes.txt in its order."""
        return list(_names(place).values())

    def rows(self, place: Place) -> Iterator[Row]:
        """Yield train, then test."""
        return birds_rows(place.root, _names(place))


def _names(place: Place) -> dict[str, str]:
    pairs = read_pairs(place.root / "classes.txt")
    return {number: readable(name.split(".", 1)[-1]) for number, name in pairs.items()}
