"""CIFAR-10 and CIFAR-100, as their page has them for Python.

Layout, classes and order: torchvision's CIFAR10 and CIFAR100, which the FUNGI paper's code reads.
Of CIFAR-100 the labels are the fine ones; the coarse ones are a column.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import ClassVar

from fungistore.modalities.modality import Modality
from fungistore.sources.array_files import ArraySource
from fungistore.sources.cifar_batches import CifarReader
from fungistore.sources.sets.comparing import differences
from fungistore.sources.sets.facts import FUNGI, DataSet, DataSetLayout
from fungistore.sources.sets.place import find_place

_TEN = DataSet(
    name="cifar10",
    title="CIFAR-10",
    splits={"train": 50_000, "test": 10_000},
    classes=10,
    bytes=186_000_000,
    layouts=(
        DataSetLayout(
            "as the archive unpacks",
            dict.fromkeys(
                (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"),
                "from cifar-10-python.tar.gz",
            ),
            ("cifar-10-batches-py",),
        ),
    ),
    split_rule="official (the batches)",
    metric="top-1 accuracy",
    papers=(FUNGI,),
    terms="none stated",
    page="https://www.cs.toronto.edu/~kriz/cifar.html",
)


class Cifar10(CifarReader):
    """CIFAR-10."""

    data_set: ClassVar[DataSet] = _TEN

    def recognises(self, path: str, modality: Modality) -> bool:
        """Say no: its name has to be given, and without it `CifarReader` finds it."""
        return False

    def open(self, path: str, modality: Modality) -> ArraySource:
        """Return the source.

        Raises:
            UsageError: the data set is not there, or not all of it.
        """
        source = super().open(str(find_place(self.data_set, path).root), modality)
        splits: Counter[str] = Counter()
        for part in source.parts:
            splits[part.split or "none"] += part.count
        return replace(source, said=[*source.said, *differences(self.data_set, splits, [])])


class Cifar100(Cifar10):
    """CIFAR-100."""

    data_set = replace(
        _TEN,
        name="cifar100",
        title="CIFAR-100",
        classes=100,
        layouts=(
            DataSetLayout(
                "as the archive unpacks",
                dict.fromkeys(("train", "test", "meta"), "from cifar-100-python.tar.gz"),
                ("cifar-100-python",),
            ),
        ),
    )
