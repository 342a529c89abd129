"""The four lists that Caltech-UCSD Birds and NABirds have, both made with the Visipedia project.

`images.txt` (key, path), `image_class_labels.txt` (key, class), `classes.txt` (class, name) and
`train_test_split.txt` (key, 1 for train): README of CUB_200_2011 and of nabirds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from fungistore.sources.sets.image_set import Row
from fungistore.sources.sets.lists import read_pairs

_SPLITS = {"1": "train", "0": "test"}


def birds_needs(archive: str) -> Mapping[str, str]:
    """Return the files that such a set needs."""
    lists = ("images.txt", "image_class_labels.txt", "classes.txt", "train_test_split.txt")
    return dict.fromkeys((*lists, "images/"), f"from {archive}")


def birds_rows(root: Path, names: Mapping[str, str]) -> Iterator[Row]:
    """Yield the images of a split after those of the other, each in the order of the list.

    Args:
        root: where the lists are.
        names: of the classes, by their numbers.
    """
    paths = read_pairs(root / "images.txt")
    classes = read_pairs(root / "image_class_labels.txt")
    sides = {key: _SPLITS[side] for key, side in read_pairs(root / "train_test_split.txt").items()}
    for split in _SPLITS.values():
        for key, path in paths.items():
            if sides[key] == split:
                yield Row(f"images/{path}", names[classes[key]], split)
