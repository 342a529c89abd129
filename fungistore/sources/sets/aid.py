"""Aerial Image Dataset.

Layout: AID.zip, a folder a class. It has no official split (its paper draws 20 or 50 % for
training, several times), and LOFF-TA's is not published: here it is that of `splitting`, a tenth
each.
"""

from __future__ import annotations

from collections.abc import Iterator

from fungistore.sources.sets.class_folders import files_of_classes
from fungistore.sources.sets.facts import LOFF_TA, DataSet, DataSetLayout
from fungistore.sources.sets.image_set import ImageSet, Row
from fungistore.sources.sets.place import Place
from fungistore.sources.sets.splitting import held_out

_CLASSES = (
    *("Airport", "BareLand", "BaseballField", "Beach", "Bridge", "Center", "Church", "Commercial"),
    *("DenseResidential", "Desert", "Farmland", "Forest", "Industrial", "Meadow"),
    *("MediumResidential", "Mountain", "Park", "Parking", "Playground", "Pond", "Port"),
    *("RailwayStation", "Resort", "River", "School", "SparseResidential", "Square", "Stadium"),
    *("StorageTanks", "Viaduct"),
)
_HELD_OUT = 0.2


class Aid(ImageSet):
    """AID."""

    remarks = ("aid has no official split: train, val and test are drawn with seed 42",)
    data_set = DataSet(
        name="aid",
        title="Aerial Image Dataset",
        splits={"train": 8000, "val": 1000, "test": 1000},
        classes=30,
        bytes=2_600_000_000,
        layouts=(
            DataSetLayout(
                "as the archive unpacks",
                {f"{name}/": "from AID.zip" for name in _CLASSES},
                ("AID", "AID/AID"),
            ),
        ),
        split_rule="none published: 80 / 10 / 10 %, drawn with seed 42",
        metric="top-1 accuracy",
        papers=(LOFF_TA,),
        terms="none stated; the images are Google Earth's",
        page="https://captain-whu.github.io/AID/",
    )

    def classes(self, place: Place) -> list[str]:
        """Return the names of the folders, sorted."""
        return list(_CLASSES)

    def rows(self, place: Place) -> Iterator[Row]:
        """Yield all images, class after class."""
        files = list(files_of_classes(place.root, _CLASSES, (".jpg", ".jpeg")))
        for (path, label), split in zip(files, held_out(len(files), _HELD_OUT), strict=True):
            yield Row(path, label, split)
