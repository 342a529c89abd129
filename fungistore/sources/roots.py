"""Folders that are a data set's root, or hold one: their folders are its parts, and no classes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from shlex import quote

from fungistore.sources.labels import known_split
from fungistore.sources.reader import READERS

# What only a data set's root has: the name of its reader, what people call it, and files below it.
LAYOUTS: Sequence[tuple[str, str, tuple[str, ...]]] = (
    ("nabirds", "NABirds", ("images", "hierarchy.txt")),
    ("cub", "CUB-200-2011", ("images", "images.txt")),
    ("flowers102", "Flowers-102", ("jpg", "imagelabels.mat")),
    ("cars", "Stanford Cars", ("cars_train",)),
    ("cars", "Stanford Cars", ("devkit", "cars_test")),
    ("cars", "Stanford Cars", ("car_ims", "cars_annos.mat")),
    ("cars", "Stanford Cars", ("devkit/cars_train_annos.mat",)),
    ("pets", "Oxford-IIIT Pets", ("images", "annotations/trainval.txt")),
    ("dtd", "DTD", ("images", "labels/train1.txt")),
    ("food101", "Food-101", ("images", "meta/classes.txt")),
    ("food101", "Food-101", ("images", "meta/train.txt")),
    ("aircraft", "FGVC Aircraft", ("data/variants.txt",)),
    ("aircraft", "FGVC Aircraft", ("images", "images_variant_train.txt")),
    ("eurosat", "EuroSAT", ("2750",)),
    ("imagenet", "ImageNet", ("ILSVRC2012_devkit_t12",)),
    ("imagenet", "ImageNet", ("ILSVRC",)),
    ("imagenet", "ImageNet", ("Data/CLS-LOC",)),
    ("cifar10", "CIFAR-10", ("cifar-10-batches-py",)),
    ("cifar10", "CIFAR-10", ("data_batch_1",)),
    ("cifar100", "CIFAR-100", ("cifar-100-python",)),
    ("ddsm", "CBIS-DDSM", ("mass_case_description_train_set.csv",)),
    ("ddsm", "CBIS-DDSM", ("jpeg", "csv/dicom_info.csv")),
    ("aptos", "APTOS 2019", ("train_images", "train.csv")),
    ("isic", "ISIC 2019", ("ISIC_2019_Training_Input",)),
    ("voc-aug", "Pascal VOC with trainaug", ("ImageSets/Segmentation/trainaug.txt",)),
    ("voc-aug", "Pascal VOC with trainaug", ("sets/trainaug.txt", "SegmentationClassAug")),
    ("voc", "Pascal VOC", ("JPEGImages", "SegmentationClass")),
    ("voc", "Pascal VOC", ("sets/val.txt", "SegmentationClass")),
    ("ade20k", "ADE20K", ("images/training", "annotations/training")),
    ("esc50", "ESC-50", ("audio", "meta/esc50.csv")),
    ("speech-commands", "Speech Commands", ("validation_list.txt", "testing_list.txt")),
)
# What parts of data sets are called, and hardly a class; without case.
IMAGE_PARTS = frozenset(
    (
        *("images", "image", "imgs", "img", "jpg", "jpeg", "jpegs", "png", "jpegimages"),
        *("pictures", "photos", "rawimages", "2750", "audio", "wav", "wavs"),
    )
)
PARTS = IMAGE_PARTS | frozenset(
    (
        *("data", "dataset", "annotations", "annotation", "labels"),
        *("masks", "mask", "meta", "metadata", "devkit", "docs", "imagesets"),
        *("segmentationclass", "segmentationobject", "segmentations", "trimaps", "groundtruth"),
        *("bboxes", "xmls", "lists", "splits"),
    )
)
_NAMES_SHOWN = 3
_CLASSES_LOOKED_INTO = 8
_WORD = re.compile(r"[A-Za-z]+")


def layout_of(path: str) -> tuple[str, str] | None:
    """Return the name of the data set whose root a folder is, for the command line and for eyes."""
    for name, title, files in LAYOUTS:
        if all(os.path.exists(os.path.join(path, *file.split("/"))) for file in files):
            return name, title
    return None


def root_warnings(path: str, top: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Return what to give instead of a folder that does not look like one of class folders.

    Args:
        path: the folder.
        top: names of the folders in it that are classes.
        classes: all names of classes, those in the folders of splits too.
    """
    only = os.path.join(path, top[0]) if len(top) == len(classes) == 1 else None
    for place in (path, only):
        if place is not None and top and (found := layout_of(place)):
            return [_known_set(path, top, *found)]
    if only is not None and _folders(only):
        return [
            f"warning: everything lies in the folder {top[0]!r}, which is read as the only class: "
            f"if the classes are in it, give {only}"
        ]
    parts = [name for name in classes if name.casefold() in PARTS]
    if parts:
        images = [name for name in parts if name in top and name.casefold() in IMAGE_PARTS]
        best = os.path.join(path, images[0]) if images else "the folder of the images"
        return [
            f"warning: {_quoted(parts)} {'is' if len(parts) == 1 else 'are'} read as classes, and "
            f"look like parts of a data set: give {best}, or a manifest with labels"
        ]
    splits = {name: word for name in top if (word := _split_in(name))}
    if len(set(splits.values())) > 1:  # train_station may be a class
        return [
            f"warning: {_quoted([*splits])} look like splits, and are read as classes: name the "
            "folders train, val and test, or give a manifest with a column `split`"
        ]
    below = [_folders(os.path.join(path, name)) for name in top[:_CLASSES_LOOKED_INTO]]
    if below and all(names and all(map(known_split, names)) for names in below):
        return [
            f"warning: the splits that lie below classes, such as {f'{top[0]}/{below[0][0]}'!r}, "
            "are not read: put the folders of classes into those of splits, or give a manifest "
            "with a column `split`"
        ]
    return []


def _known_set(path: str, top: Sequence[str], name: str, title: str) -> str:
    said = f"warning: this looks like the root of {title}: {_quoted(top)} would be no classes"
    if name in READERS:
        return f"{said}; fungi extract {quote(f'{name}:{path}')} reads its labels and splits"
    return f"{said}; give the folder whose folders are classes, or a manifest with labels"


def _quoted(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_NAMES_SHOWN]))
    return shown + (", ..." if len(names) > _NAMES_SHOWN else "")


def _split_in(name: str) -> str | None:
    """Return the split that one of a name's words names: cars_train, train2017."""
    return next(filter(None, map(known_split, _WORD.findall(name))), None)


def _folders(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return []
