"""Oxford-IIIT Pet.

Layout, names and order: torchvision's OxfordIIITPet; split and order: `tools/pets.py` of the FUNGI
paper's code, which trains on trainval.txt.
"""

from __future__ import annotations

from collections.abc import Iterator

from fungistore.sources.sets.facts import FUNGI, DataSet, DataSetLayout
from fungistore.sources.sets.image_set import ImageSet, Row
from fungistore.sources.sets.lists import read_fields
from fungistore.sources.sets.place import Place

_LISTS = {"train": "annotations/trainval.txt", "test": "annotations/test.txt"}


class Pets(ImageSet):
    """Oxford-IIIT Pet."""

    data_set = DataSet(
        name="pets",
        title="Oxford-IIIT Pet",
        splits={"train": 3680, "test": 3669},
        classes=37,
        bytes=820_000_000,
        layouts=(
            DataSetLayout(
                "as the archives unpack",
                dict.fromkeys(_LISTS.values(), "from annotations.tar.gz")
                | {"images/": "from images.tar.gz"},
                ("oxford-iiit-pet",),
            ),
        ),
        split_rule="official (trainval.txt, test.txt)",
        metric="mean accuracy of the classes",
        papers=(FUNGI,),
        terms="CC BY-SA 4.0",
        page="https://www.robots.ox.ac.uk/~vgg/data/pets/",
    )

    def classes(self, place: Place) -> list[str]:
        """Return the breeds in the order of their numbers."""
        numbers: dict[str, int] = {}
        for file in _LISTS.values():
            for image, number, _ in read_fields(place.root / file, 3):
                numbers.setdefault(_breed(image), int(number))
        return sorted(numbers, key=numbers.__getitem__)

    def rows(self, place: Place) -> Iterator[Row]:
        """Yield trainval as train, then test, each in the order of its list."""
        for split, file in _LISTS.items():
            for image, _, _ in read_fields(place.root / file, 3):
                yield Row(f"images/{image}.jpg", _breed(image), split)


def _breed(image: str) -> str:
    """Return the breed of `american_bulldog_12`: "American Bulldog"."""
    return " ".join(part.title() for part in image.rsplit("_", 1)[0].split("_"))
