"""FGVC-Aircraft, release 2013b, by variant.

Layout and order: torchvision's FGVCAircraft, whose "train", "val" and "test" the FUNGI paper's code
reads; classes are in the order of variants.txt.
"""

from __future__ import annotations

from collections.abc import Iterator

from fungistore.sources.sets.facts import FUNGI, DataSet, DataSetLayout
from fungistore.sources.sets.image_set import ImageSet, Row
from fungistore.sources.sets.lists import read_fields, read_lines
from fungistore.sources.sets.place import Place

_CLASSES = "data/variants.txt"
_LISTS = {split: f"data/images_variant_{split}.txt" for split in ("train", "val", "test")}


class Aircraft(ImageSet):
    """FGVC-Aircraft."""

    data_set = DataSet(
        name="aircraft",
        title="FGVC-Aircraft",
        splits={"train": 3334, "val": 3333, "test": 3333},
        classes=100,
        bytes=2_770_000_000,
        layouts=(
            DataSetLayout(
                "as the archive unpacks",
                dict.fromkeys(
                    (_CLASSES, *_LISTS.values(), "data/images/"), "from fgvc-aircraft-2013b.tar.gz"
                ),
                ("fgvc-aircraft-2013b",),
            ),
        ),
        split_rule="official (data/images_variant_*.txt)",
        metric="mean accuracy of the classes",
        papers=(FUNGI,),
        terms="non-commercial research",
        page="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
    )

    def classes(self, place: Place) -> list[str]:
        """Return the variants in the order of their list."""
        return read_lines(place.root / _CLASSES)

    def rows(self, place: Place) -> Iterator[Row]:
        """Yield train, val and test, each in the order of its list."""
        variants = {name: name for name in self.classes(place)}
        for split, file in _LISTS.items():
            for number, name in read_fields(place.root / file, 2):
                yield Row(f"data/images/{number}.jpg", variants[name], split)
