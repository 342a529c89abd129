"""ISIC 2019: the 25,331 training images of the challenge.

Layout: the challenge's archives, or that of LOFF-TA's authors (`train/`). Class names and split:
`defaults/datasets.py` of ChrisMats/medical_transformers, their earlier code (see `splitting`),
which holds 20 % of the ground truth out.
"""

from __future__ import annotations

from collections.abc import Iterator

from fungistore.sources.sets.facts import LOFF_TA, DataSet, DataSetLayout
from fungistore.sources.sets.image_set import ImageSet, Row
from fungistore.sources.sets.lists import read_table
from fungistore.sources.sets.place import Place, unnested
from fungistore.sources.sets.splitting import held_out

_CLASSES = {
    "MEL": "Melanoma",
    "NV": "Melanocytic nevus",
    "BCC": "Basal cell carcinoma",
    "AK": "Actinic keratosis",
    "BKL": "Benign keratosis",
    "DF": "Dermatofibroma",
    "VASC": "Vascular lesion",
    "SCC": "Squamous cell carcinoma",
}
_LIST, _HELD_OUT = "ISIC_2019_Training_GroundTruth.csv", 0.2
_FOLDERS = ("ISIC_2019_Training_Input/", "train/")


class Isic(ImageSet):
    """ISIC 2019: eight kinds of skin lesions."""

    remarks = (
        "isic: train, val and test are parts of the challenge's training images, drawn with "
        "seed 42; images of one lesion may be on both sides, as in the authors' code",
    )
    data_set = DataSet(
        name="isic",
        title="ISIC 2019",
        splits={"train": 20_265, "val": 2533, "test": 2533},
        classes=8,
        bytes=9_800_000_000,
        layouts=tuple(
            DataSetLayout(
                what,
                {_LIST: "which is offered by itself", folder: "from ISIC_2019_Training_Input.zip"},
                ("ISIC_2019", "ISIC2019"),
            )
            for what, folder in zip(
                ("as the archive unpacks", "as LOFF-TA's authors have it"), _FOLDERS, strict=True
            )
        ),
        split_rule="that of LOFF-TA's authors: 80 / 10 / 10 %, drawn with seed 42",
        metric="mean recall of the classes",
        papers=(LOFF_TA,),
        terms="CC BY-NC 4.0",
        page="https://challenge.isic-archive.com/data/#2019",
    )

    def classes(self, place: Place) -> list[str]:
        """Return the classes in the order of the columns."""
        return list(_CLASSES.values())

    def rows(self, place: Place) -> Iterator[Row]:
        """Yield the images in the order of the ground truth."""
        table = read_table(place.root / _LIST, ("image", *_CLASSES))
        folder = next(name for name in _FOLDERS if name in place.layout.needs)
        folder = unnested(place.root, folder.rstrip("/"))
        for row, split in zip(table, held_out(len(table), _HELD_OUT), strict=True):
            (label,) = (name for column, name in _CLASSES.items() if float(row[column]))
            yield Row(f"{folder}/{row['image']}.jpg", label, split)
