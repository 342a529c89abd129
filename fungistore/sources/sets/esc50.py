"""ESC-50: two thousand environmental sounds, in five folds of equal size.

Layout: the archive of its repository. The folds are official, and so is leaving out one after the
other; no clips of one recording are in two of them. Fold 1 is the test split of the FUNGI paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from fungistore.modalities.modality import AUDIO
from fungistore.sources.sample import CellType
from fungistore.sources.sets.facts import FUNGI, DataSet, DataSetLayout
from fungistore.sources.sets.image_set import ImageSet, Row
from fungistore.sources.sets.lists import read_table
from fungistore.sources.sets.place import Place

_LIST = "meta/esc50.csv"
_ARCHIVE = "from ESC-50-master.zip"


def _facts(fold: int) -> DataSet:
    """Return what is known of the set where one fold is the test split."""
    return DataSet(
        name="esc50" if fold == 1 else f"esc50-fold{fold}",
        title="ESC-50" if fold == 1 else f"ESC-50, fold {fold} for testing",
        splits={"train": 1600, "test": 400},
        classes=50,
        bytes=880_000_000,
        layouts=(
            DataSetLayout(
                "as the archive unpacks",
                dict.fromkeys((_LIST, "audio/"), _ARCHIVE),
                ("ESC-50-master", "ESC-50"),
            ),
        ),
        split_rule=f"official folds: {fold} is for testing",
        metric="top-1 accuracy",
        papers=(FUNGI,),
        terms="CC BY-NC 3.0",
        page="https://github.com/karolpiczak/ESC-50",
        modality=AUDIO,
    )


class Esc50(ImageSet):
    """ESC-50; the test split is fold 1."""

    fold: ClassVar[int] = 1
    data_set: ClassVar[DataSet] = _facts(1)
    further: ClassVar[Mapping[str, CellType]] = {"fold": "int"}

    def classes(self, place: Place) -> list[str]:
        """Return the categories in the order of their numbers."""
        table = read_table(place.root / _LIST, ("target", "category"))
        names = {int(row["target"]): row["category"] for row in table}
        return [names[number] for number in sorted(names)]

    def rows(self, place: Place) -> Iterator[Row]:
        """Yield train, then test, each in the order of the table."""
        table = read_table(place.root / _LIST, ("filename", "fold", "category"))
        for split in ("train", "test"):
            for row in table:
                fold = int(row["fold"])
                if (fold == self.fold) == (split == "test"):
                    path = f"audio/{row['filename']}"
                    yield Row(path, row["category"], split, further=(fold,))


class Esc50Fold2(Esc50):
    """ESC-50; the test split is fold 2."""

    fold = 2
    data_set = _facts(2)


class Esc50Fold3(Esc50):
    """ESC-50; the test split is fold 3."""

    fold = 3
    data_set = _facts(3)


class Esc50Fold4(Esc50):
    """ESC-50; the test split is fold 4."""

    fold = 4
    data_set = _facts(4)


class Esc50Fold5(Esc50):
    """ESC-50; the test split is fold 5."""

    fold = 5
    data_set = _facts(5)
