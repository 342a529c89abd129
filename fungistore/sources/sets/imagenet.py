"""ImageNet-1k (ILSVRC 2012).

Layouts: torchvision's ImageNet (train/ and val/, a folder a class), and Kaggle's, whose validation
images are in one folder, as in the first archive; their classes are those of the devkit, or of
LOC_val_solution.csv. Classes are in the order of their WordNet ids, as torchvision and the FUNGI
paper's code have them, not in that of the devkit. The paper tests on val, the labels of the test
set being secret: here val is the split `test`.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path

from fungistore.errors import UsageError
from fungistore.sources.sets.class_folders import files_in, files_of_classes
from fungistore.sources.sets.facts import FUNGI, DataSet, DataSetLayout
from fungistore.sources.sets.image_set import ImageSet, Row
from fungistore.sources.sets.lists import read_mat, read_pairs, read_table, told_apart
from fungistore.sources.sets.place import Place

_WNID = re.compile("n[0-9]{8}")
_SUFFIXES = (".jpeg", ".jpg")
_KAGGLE = "ILSVRC/Data/CLS-LOC"
_DEVKIT = "ILSVRC2012_devkit_t12"
_META, _TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
_WORDS, _SOLUTION = "LOC_synset_mapping.txt", "LOC_val_solution.csv"
_ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}


class ImageNet(ImageSet):
    """ImageNet-1k; a class is called by all of its words, or by its WordNet id without a devkit."""

    data_set = DataSet(
        name="imagenet",
        title="ImageNet-1k (ILSVRC 2012)",
        splits={"train": 1_281_167, "test": 50_000},
        classes=1000,
        bytes=155_000_000_000,
        layouts=(
            DataSetLayout(
                "as torchvision unpacks it",
                {f"{split}/": f"from {name}" for split, name in _ARCHIVES.items()},
                ("imagenet", "imagenet-1k", "ILSVRC2012"),
            ),
            DataSetLayout(
                "as Kaggle's archive unpacks",
                {
                    f"{_KAGGLE}/train/": "from imagenet-object-localization-challenge.zip",
                    f"{_KAGGLE}/val/": "from imagenet-object-localization-challenge.zip",
                    _WORDS: "from the same archive",
                    _SOLUTION: "from the same archive",
                },
            ),
        ),
        split_rule="official; val is the split test, as in the paper",
        metric="top-1 accuracy",
        papers=(FUNGI,),
        terms="non-commercial research and education, by its terms of access",
        page="https://image-net.org/download.php",
    )

    def classes(self, place: Place) -> list[str]:
        """Return the words of the classes in the order of their WordNet ids."""
        return list(_names(place).values())

    def rows(self, place: Place) -> Iterator[Row]:
        """Yield train, then val as the split test, each class after class."""
        names = _names(place)
        base = f"{_KAGGLE}/" if _WORDS in place.layout.needs else ""
        for path, folder in _of_classes(place.root, f"{base}train", names):
            yield Row(path, names[folder], "train")
        flat = files_in(place.root, f"{base}val", _SUFFIXES)
        if not flat:
            for path, folder in _of_classes(place.root, f"{base}val", names):
                yield Row(path, names[folder], "test")
            return
        classes = _classes_of_val(place, flat)
        for path in sorted(flat, key=lambda path: (classes[Path(path).stem], path)):
            yield Row(path, names[classes[Path(path).stem]], "test")


def _of_classes(root: Path, folder: str, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for path, name in files_of_classes(root, [f"{folder}/{name}" for name in names], _SUFFIXES):
        yield path, name.removeprefix(f"{folder}/")


def _names(place: Place) -> dict[str, str]:
    """Return the names of the classes by their WordNet ids, which they are in the order of."""
    if (place.root / _WORDS).is_file():
        words = read_pairs(place.root / _WORDS)
    elif _has_devkit(place.root):
        words = {wnid: name for _, wnid, name in _synsets(place.root)}
    else:
        names = (entry.name for entry in (place.root / "train").iterdir() if entry.is_dir())
        words = {name: name for name in names if _WNID.fullmatch(name)}
    return told_apart({wnid: words[wnid] for wnid in sorted(words)})


def _classes_of_val(place: Place, flat: list[str]) -> dict[str, str]:
    """Return the WordNet ids of validation images that are in no class folders."""
    if _SOLUTION in place.layout.needs:
        table = read_table(place.root / _SOLUTION, ("ImageId", "PredictionString"))
        return {row["ImageId"]: row["PredictionString"].split()[0] for row in table}
    if not _has_devkit(place.root):
        raise UsageError(
            "the validation images are in no class folders, and nothing tells their classes",
            where=place.root / "val",
            expected=f"{_DEVKIT}.tar.gz beside train/ and val/, or class folders in val/",
            hint=ImageNet.data_set.advice,
        )
    wnids = {str(number): wnid for number, wnid, _ in _synsets(place.root)}
    truth = _devkit_file(place.root, _TRUTH).read().decode().split()
    stems = (f"ILSVRC2012_val_{number:08d}" for number in range(1, len(truth) + 1))
    return {stem: wnids[number] for stem, number in zip(stems, truth, strict=True)}


def _synsets(root: Path) -> Iterator[tuple[int, str, str]]:
    """Yield number, WordNet id and words of the classes that have no others below them."""
    for one in read_mat(_devkit_file(root, _META), "synsets", root / _DEVKIT / _META):
        if not one["num_children"]:
            yield int(one["ILSVRC2012_ID"]), str(one["WNID"]), str(one["words"])


def _has_devkit(root: Path) -> bool:
    return (root / _DEVKIT).is_dir() or (root / f"{_DEVKIT}.tar.gz").is_file()


def _devkit_file(root: Path, name: str) -> BytesIO:
    """Return a file of the devkit, unpacked or not."""
    archive = root / f"{_DEVKIT}.tar.gz"
    try:
        if (root / _DEVKIT / name).is_file() or not archive.is_file():
            return BytesIO((root / _DEVKIT / name).read_bytes())
        with tarfile.open(archive) as tar:
            member = tar.extractfile(f"{_DEVKIT}/{name}")
            if member is None:
                raise KeyError(f"{name} is a folder")
            return BytesIO(member.read())
    except (OSError, KeyError, tarfile.TarError) as error:
        raise UsageError(
            "the devkit cannot be read", where=archive, expected=f"{_DEVKIT}/{name}", found=error
        ) from error
