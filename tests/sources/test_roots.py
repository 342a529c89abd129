"""Folders that are no class folders: roots of data sets, litter, and splits by other names."""

from __future__ import annotations

from pathlib import Path

import pytest

from fungistore.sources.opening import open_source
from fungistore.sources.roots import layout_of
from fungistore.sources.sample import Sample, source_remarks
from fungistore.store.listing import add_source
from fungistore.store.store import Store
from fungistore.store.understood import understood


def make(folder: Path, *files: str) -> list[Sample]:
    """Write files below a folder, and return its samples."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"x")
    return list(open_source(folder))


def table(folder: Path, *files: str) -> list[tuple[str | None, str | None]]:
    """Return the (label, split) of the files' samples, without doubles."""
    return sorted({(s.label, s.split) for s in make(folder, *files)}, key=str)


# What lies in a folder, and words of the warning.
ROOTS: dict[str, tuple[tuple[str, ...], str]] = {
    "CUB": (("images/001.Owl/1.jpg", "images.txt", "parts/parts.txt"), "CUB-200-2011"),
    "NABirds": (("images/0295/1.jpg", "images.txt", "hierarchy.txt"), "NABirds"),
    "Flowers": (("jpg/image_1.jpg", "imagelabels.mat"), "Flowers-102"),
    "Cars": (("cars_train/1.jpg", "cars_test/1.jpg", "devkit/x.mat"), "Stanford Cars"),
    "Pets": (("images/a_1.jpg", "annotations/trainval.txt"), "Oxford-IIIT Pets"),
    "pets' parts": (("images/a_1.jpg", "annotations/xmls/a.xml"), "parts of a data set"),
    "DTD": (("images/banded/1.jpg", "labels/train1.txt"), "DTD"),
    "YOLO": (("images/1.jpg", "labels/1.txt"), "parts of a data set"),
    "Food": (("images/pie/1.jpg", "meta/classes.txt"), "Food-101"),
    "Aircraft": (("data/images/1.jpg", "data/variants.txt", "eval.m"), "FGVC Aircraft"),
    "EuroSAT": (("2750/Forest/1.jpg",), "EuroSAT"),
    "ImageNet": (("ILSVRC/Data/CLS-LOC/train/n01/1.jpg",), "ImageNet"),
    "VOC": (("JPEGImages/1.jpg", "Annotations/1.xml"), "give {}/JPEGImages"),
    "doubled": (("pets/cat/1.jpg", "pets/dog/1.jpg", "readme.txt"), "give {}/pets"),
    "CUB below": (("CUB_200_2011/images/1/1.jpg", "CUB_200_2011/images.txt"), "CUB-200-2011"),
    "split words": (("train2017/1.jpg", "val2017/1.jpg"), "look like splits"),
    "splits in classes": (
        (
            "bottle/train/good/1.jpg",
            "bottle/test/bad/1.jpg",
            "cable/train/1.jpg",
            "cable/Test/1.jpg",
        ),
        "'bottle/test', are not read",
    ),
    "split parts": (("train/images/1.jpg", "train/labels/1.txt"), "parts of a data set"),
}
SOUND = {
    "classes": ("cat/1.jpg", "dog/1.jpg", "readme.txt"),
    "splits": ("Train/cat/1.jpg", "TEST/dog/1.jpg", "validation/cat/2.jpg"),
    "one class": ("cat/1.jpg",),
    "no class": ("1.jpg", "2.jpg"),
    "one split in one class": ("cat/test/1.jpg", "dog/2.jpg"),
    "deep": ("cat/a/1.jpg", "dog/b/1.jpg"),
    "a station": ("train_station/1.jpg", "harbour/1.jpg"),
    "split-like": ("bus/1.jpg", "train/1.jpg", "car/1.jpg"),
}


@pytest.mark.parametrize("name", ROOTS)
def test_a_data_sets_root_is_warned_about(tmp_path: Path, name: str) -> None:
    """Its folders would be wrong classes; what to give instead is said."""
    files, word = ROOTS[name]
    make(tmp_path, *files)
    (remark,) = source_remarks(open_source(tmp_path))
    assert remark.startswith("warning: ")
    assert word.format(tmp_path) in remark


@pytest.mark.parametrize("name", SOUND)
def test_class_folders_are_no_root(tmp_path: Path, name: str) -> None:
    """Nothing is said of a folder that is what it should be, or may be."""
    make(tmp_path, *SOUND[name])
    assert source_remarks(open_source(tmp_path)) == []
    assert layout_of(str(tmp_path)) is None


def test_splits_are_known_in_any_case_and_by_other_words(tmp_path: Path) -> None:
    """Train, TEST, dev, Validation: as cells of a manifest are."""
    assert table(tmp_path, "Training/cat/1.jpg", "EVAL/cat/1.jpg", "dev/dog/1.jpg") == [
        ("cat", "test"),
        ("cat", "train"),
        ("dog", "val"),
    ]


def test_what_systems_leave_is_no_class(tmp_path: Path) -> None:
    """At any depth, of network storage, desktops and editors."""
    litter = (
        *("@eaDir", "__MACOSX", "lost+found", "#recycle", "@Recycle", "$RECYCLE.BIN", "@__thumb"),
        *(".ipynb_checkpoints", ".Trash-1000", "System Volume Information", "@Recently-Snapshot"),
        *("Network Trash Folder", "__pycache__"),
    )
    files = [f"{place}{name}/1.jpg" for name in litter for place in ("", "cat/", "train/cat/")]
    assert table(tmp_path, "train/cat/1.jpg", "test/cat/2.jpg", *files)[:2] == [
        ("cat", "test"),
        ("cat", "train"),
    ]
    source = open_source(tmp_path)
    assert source.label_names() == ["cat"]


def test_one_class_in_two_spellings_of_a_letter_is_one(tmp_path: Path) -> None:
    """Copies from a Mac have accents as letters of their own; ids keep their bytes."""
    samples = make(tmp_path, "train/caf\u00e9/1.jpg", "test/cafe\u0301/1.jpg")
    assert {sample.label for sample in samples} == {"caf\u00e9"}
    assert {sample.id for sample in samples} == {"train/caf\u00e9/1.jpg", "test/cafe\u0301/1.jpg"}
    assert open_source(tmp_path).label_names() == ["caf\u00e9"]


def test_words_for_no_label_are_classes_with_a_warning(tmp_path: Path) -> None:
    """Text of pandas has nan where nothing was; a class may be called None."""
    (tmp_path / "t.csv").write_text("path,label\na.jpg,nan\nb.jpg,None\nc.jpg,cat\n")
    store = Store.open_or_create(tmp_path / "s.fungi")
    with store.writing("samples") as held:
        add_source(held, open_source(tmp_path / "t.csv"))
        found = understood(held)
    assert (found.classes, found.nothing) == (3, ("nan",))
    assert "empty cells have none" in found.warnings()[0]


def test_one_line_says_what_was_understood(tmp_path: Path) -> None:
    """Counts of the table, and what the source left out; classes that look the same are warned."""
    names = [f"{split}/{cls}/{n}.jpg" for split in ("train", "dev") for cls in "Aab" for n in "12"]
    make(tmp_path / "in", *names, "train/b/1.xcf", "readme", "extra/b/1.jpg")
    source = open_source(tmp_path / "in")
    store = Store.open_or_create(tmp_path / "s.fungi")
    with store.writing("samples") as held:
        add_source(held, source)
        found = understood(held, source)
    assert str(found) == (
        "13 images, 4 classes, splits train 6 / val 6 / none 1, ignored: 1 .xcf, 1 without a suffix"
    )
    assert found.to_json() == {
        "items": "images",
        "samples": 13,
        "classes": 4,
        "unlabelled": 0,
        "splits": {"train": 6, "val": 6, "": 1},
        "removed": 0,
        "ignored": {".xcf": 1, "without a suffix": 1},
        "alike": (("A", "a"),),
        "nothing": (),
    }
    assert "'A' and 'a'" in found.warnings()[0]
    (tmp_path / "in" / "extra" / "b" / "1.jpg").unlink()
    with store.writing("samples") as held:
        add_source(held, source)
        said = str(understood(held, source))
    assert said.startswith("12 images, 3 classes, splits train 6 / val 6, 1 gone from the source")


def test_an_unlabelled_table_says_so(tmp_path: Path) -> None:
    """And an empty one; columns that are left out are counted by name."""
    (tmp_path / "m.csv").write_bytes(b"path,label,note\na,,\xff\nb,x,\n")
    source = open_source(tmp_path / "m.csv")
    store = Store.open_or_create(tmp_path / "s.fungi")
    assert str(understood(store)) == "0 images, no labels"
    with store.writing("samples") as held:
        add_source(held, source)
        said = str(understood(held, source))
    assert said == '2 images, 1 class, 1 without a label, ignored: 1 column "note"'
