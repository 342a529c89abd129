"""APTOS 2019 Blindness Detection.

Layout: the competition's archive; its own test images have no published grades. Classes and split:
`defaults/datasets.py` of ChrisMats/medical_transformers, earlier code of LOFF-TA's authors (see
`splitting`), which holds 30 % of train.csv out.
"""

from __future__ import annotations

from collections.abc import Iterator

from fungistore.sources.sets.facts import LOFF_TA, DataSet, DataSetLayout
from fungistore.sources.sets.image_set import ImageSet, Row
from fungistore.sources.sets.lists import read_table
from fungistore.sources.sets.place import Place, unnested
from fungistore.sources.sets.splitting import held_out

_CLASSES = ("No DR", "Mild", "Moderate", "Severe", "Proliferative DR")
_LIST, _HELD_OUT = "train.csv", 0.3


class Aptos(ImageSet):
    """APTOS 2019: five ordered grades of diabetic retinopathy."""

    remarks = (
        "aptos: the grades of the competition's test images are not published; train, val "
        "and test are parts of train.csv, drawn with seed 42",
    )
    data_set = DataSet(
        name="aptos",
        title="APTOS 2019 Blindness Detection",
        splits={"train": 2564, "val": 549, "test": 549},
        classes=5,
        bytes=8_600_000_000,
        layouts=(
            DataSetLayout(
                "as the archive unpacks",
                dict.fromkeys((_LIST, "train_images/"), "from aptos2019-blindness-detection.zip"),
                ("aptos2019-blindness-detection", "APTOS2019"),
            ),
        ),
        split_rule="that of LOFF-TA's authors: 70 / 15 / 15 % of train.csv, drawn with seed 42",
        metric="quadratic weighted kappa",
        papers=(LOFF_TA,),
        terms="the competition's rules",
        page="https://www.kaggle.com/competitions/aptos2019-blindness-detection/rules",
    )

    def classes(self, place: Place) -> list[str]:
        """Return the grades, 0 to 4."""
        return list(_CLASSES)

    def rows(self, place: Place) -> Iterator[Row]:
        """Yield the images in the order of train.csv."""
        table = read_table(place.root / _LIST, ("id_code", "diagnosis"))
        grades = {str(grade): name for grade, name in enumerate(_CLASSES)}
        folder = unnested(place.root, "train_images")
        for row, split in zip(table, held_out(len(table), _HELD_OUT), strict=True):
            yield Row(f"{folder}/{row['id_code']}.png", grades[row["diagnosis"]], split)
