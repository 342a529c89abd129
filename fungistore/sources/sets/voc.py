"""Pascal VOC 2012, the segmentation task, and its larger training list.

Layout: `VOCtrainval_11-May-2012.tar`; the larger list is that of Hariharan et al. (Semantic
Contours from Inverse Detectors, 2011), as people put it beside: `SegmentationClassAug` and
`trainaug.txt`. An image that has an official mask keeps it.
open-hummingbird-eval has the same in `images`, `SegmentationClass[Aug]` and `sets`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import PurePosixPath

from fungistore.modalities.modality import Modality
from fungistore.sources.sample import MaskWords
from fungistore.sources.sets.facts import FUNGI, DataSet, DataSetLayout
from fungistore.sources.sets.image_set import ImageSet, Row
from fungistore.sources.sets.lists import read_lines
from fungistore.sources.sets.place import Place

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair"),
    *("cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
VOID = 255  # the borders of objects
_ARCHIVE = "from VOCtrainval_11-May-2012.tar"
_AUGMENTED = "which people share as SegmentationClassAug.zip, with its list"
_LISTS, _LISTS_OF_HUMMINGBIRD = "ImageSets/Segmentation", "sets"
_INSIDE = (
    *("VOC2012", "VOCdevkit/VOC2012", "VOCtrainval_11-May-2012/VOCdevkit/VOC2012"),
    "VOCSegmentation",
)


def _layouts(train: str, masks: str, origin: str) -> tuple[DataSetLayout, ...]:
    return tuple(
        DataSetLayout(
            what,
            {
                f"{images}/": _ARCHIVE,
                f"{masks}/": origin,
                f"{lists}/{train}.txt": origin,
                f"{lists}/val.txt": _ARCHIVE,
            },
            _INSIDE,
        )
        for what, images, lists in (
            ("as the archive unpacks", "JPEGImages", _LISTS),
            ("as open-hummingbird-eval has it", "images", _LISTS_OF_HUMMINGBIRD),
        )
    )


class Voc(ImageSet):
    """Pascal VOC 2012: 20 kinds of objects and the background; borders are void."""

    train = "train"
    masks = MaskWords(VOC_CLASSES, VOID)
    data_set = DataSet(
        name="voc",
        title="Pascal VOC 2012, segmentation",
        splits={"train": 1464, "val": 1449},
        classes=21,
        bytes=2_000_000_000,
        layouts=_layouts("train", "SegmentationClass", _ARCHIVE),
        split_rule="official (ImageSets/Segmentation)",
        metric="mean intersection over union",
        papers=(),
        terms="the pages' own: Flickr's terms of use",
        page="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
    )

    def recognises(self, path: str, modality: Modality) -> bool:
        """Whether a folder has images, masks and lists of it."""
        needs = (layout.needs for layout in self.data_set.layouts)
        return any(all(os.path.exists(os.path.join(path, one)) for one in own) for own in needs)

    def classes(self, place: Place) -> list[str]:
        """Return no classes: those of the masks are none of the images'."""
        return []

    def rows(self, place: Place) -> Iterator[Row]:
        """Yield the images of the lists, train first."""
        images, lists, masks = _folders(place)
        for split, name in (("train", self.train), ("val", "val")):
            for line in read_lines(place.root / lists / f"{name}.txt"):
                stem = PurePosixPath(line.split()[0]).stem  # some lists have paths
                found = (f"{folder}/{stem}.png" for folder in masks)
                there = [mask for mask in found if (place.root / mask).exists()]
                first = there[0] if there else f"{masks[0]}/{stem}.png"
                yield Row(f"{images}/{stem}.jpg", None, split, first)


class VocAug(Voc):
    """The same, with the larger training list: `trainaug`, of 10,582 images."""

    train = "trainaug"
    remarks = ("voc-aug: train is the list trainaug; voc:PATH has the official one",)
    data_set = DataSet(
        name="voc-aug",
        title="Pascal VOC 2012, segmentation, with trainaug",
        splits={"train": 10_582, "val": 1449},
        classes=21,
        bytes=2_100_000_000,
        layouts=_layouts("trainaug", "SegmentationClassAug", _AUGMENTED),
        split_rule="trainaug (Hariharan et al., 2011), official val",
        metric="mean intersection over union",
        papers=(FUNGI,),
        terms="as voc",
        page="http://home.bharathh.info/pubs/codes/SBD/download.html",
    )


def _folders(place: Place) -> tuple[str, str, tuple[str, ...]]:
    """Return the folders of images, of lists and of masks, the official masks first."""
    is_official = any(need.startswith(_LISTS) for need in place.layout.needs)
    images, lists = ("JPEGImages", _LISTS) if is_official else ("images", _LISTS_OF_HUMMINGBIRD)
    return images, lists, ("SegmentationClass", "SegmentationClassAug")
