"""EuroSAT, the RGB version.

Layout: torchvision's EuroSAT. It has no official split. The FUNGI paper's is scikit-learn's
StratifiedShuffleSplit(train_size=0.8, random_state=42) over torchvision's order (classes and files
sorted by name), its rows left in the order that this gives (`src/datasets/eurosat.py`).
"""

from __future__ import annotations

from collections.abc import Iterator

from fungistore.sources.sets.class_folders import files_of_classes
from fungistore.sources.sets.facts import FUNGI, DataSet, DataSetLayout
from fungistore.sources.sets.image_set import ImageSet, Row
from fungistore.sources.sets.place import Place

_CLASSES = (
    *("AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture"),
    *("PermanentCrop", "Residential", "River", "SeaLake"),
)
_SEED, _TRAIN = 42, 0.8


class Eurosat(ImageSet):
    """EuroSAT."""

    remarks = (
        "eurosat has no official split: train and test are the FUNGI paper's, drawn with seed 42",
    )
    data_set = DataSet(
        name="eurosat",
        title="EuroSAT (RGB)",
        splits={"train": 21_600, "test": 5400},
        classes=10,
        bytes=95_000_000,
        layouts=(
            DataSetLayout(
                "as the archive unpacks",
                {f"{name}/": "from EuroSAT.zip (RGB)" for name in _CLASSES},
                ("2750", "eurosat/2750", "EuroSAT/2750", "EuroSAT_RGB", "EuroSAT"),
            ),
        ),
        split_rule="the FUNGI paper's: 80 % of each class, drawn with seed 42",
        metric="top-1 accuracy",
        papers=(FUNGI,),
        terms="MIT",
        page="https://github.com/phelber/EuroSAT",
    )

    def classes(self, place: Place) -> list[str]:
        """Return the names of the folders, sorted."""
        return list(_CLASSES)

    def rows(self, place: Place) -> Iterator[Row]:
        """Yield train, then test, each in the order in which it was drawn."""
        from sklearn.model_selection import StratifiedShuffleSplit

        files = list(files_of_classes(place.root, _CLASSES, (".jpg", ".jpeg")))
        labels = [label for _, label in files]
        splitter = StratifiedShuffleSplit(n_splits=1, train_size=_TRAIN, random_state=_SEED)
        sides = next(iter(splitter.split(labels, labels)))
        for split, side in zip(("train", "test"), sides, strict=True):
            for row in side.tolist():
                path, label = files[row]
                yield Row(path, label, split)
