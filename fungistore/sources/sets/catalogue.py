"""Which data sets can be read by name, and whether one is at a path as published."""

from __future__ import annotations

import difflib
from collections import Counter
from pathlib import Path

from fungistore.errors import UsageError
from fungistore.modalities.modality import find_modality
from fungistore.quantities import counted
from fungistore.sources.reader import READERS, Reader
from fungistore.sources.sample import mask_words_of, source_remarks
from fungistore.sources.sets.comparing import differences
from fungistore.sources.sets.facts import DataSet, DataSetCheck
from fungistore.sources.sets.image_set import ListedImages


def list_data_sets() -> list[DataSet]:
    """Return the data sets that `NAME:PATH` names, those of plug-ins last.

    Every reader with a `data_set` counts.
    """
    found = (getattr(READERS[name], "data_set", None) for name in READERS)
    return [data_set for data_set in found if data_set is not None]


def find_data_set(name: str) -> DataSet:
    """Return the data set of that name.

    Raises:
        UsageError: there is none.
    """
    known = {data_set.name: data_set for data_set in list_data_sets()}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise UsageError(
            "unknown data set",
            where=name,
            expected=", ".join(known),
            hint=f"did you mean {near[0]}?" if near else "fungi data lists them",
        )
    return known[name]


def check_data_set(name: str, path: str | Path) -> DataSetCheck:
    """Count what of a data set is at a path; no image is opened.

    Args:
        name: of the data set.
        path: its folder, or one above that.

    Raises:
        UsageError: there is no such data set, or it is not there, or a list of it is damaged.
    """
    data_set = find_data_set(name)
    reader: Reader = READERS[name]()
    modality = find_modality(data_set.modality)
    source = reader.open(str(path), modality)
    splits: Counter[str] = Counter()
    labels, missing = set(), []
    for sample in source:
        splits[sample.split or "none"] += 1
        labels.add(sample.label)
        if sample.bytes is None and sample.mtime is None:  # items of a container have a time
            missing.append(sample.id)
    if isinstance(source, ListedImages):  # which knows its layout
        said = source.differences()
    else:
        said = differences(data_set, splits, missing)
    remarks = [remark for remark in source_remarks(source) if remark not in said]
    words = mask_words_of(source)
    count = len(words.classes) if words else len(labels)
    if count != data_set.classes:
        classes = counted(count, "class")
        said.append(f"{name}: {classes} with {modality.items}, {data_set.classes} published")
    counts = (splits.total(), dict(splits), count, len(missing))
    return DataSetCheck(name, source.root, *counts, tuple(said), tuple(remarks))
