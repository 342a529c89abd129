"""ADE20K, the scene parsing benchmark of 150 classes.

Layout and values: `ADEChallengeData2016.zip`. Value 0 of a mask is everything that is none of the
150 classes; the benchmark leaves it out, so it is void here (`fungi annotate STORE --void none`
judges it, as the class "other").
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fungistore.modalities.modality import Modality
from fungistore.names import suffix_of
from fungistore.sources.folder import visible_entries
from fungistore.sources.sample import MaskWords
from fungistore.sources.sets.facts import FUNGI, DataSet, DataSetLayout
from fungistore.sources.sets.image_set import ImageSet, Row
from fungistore.sources.sets.place import Place

_NAMES = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person,
earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea,
mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion,
base, box, column, signboard, chest of drawers, counter, sand, sink, skyscraper, fireplace,
refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, screen door, stairway,
river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop, stove,
palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light,
truck, tower, chandelier, awning, streetlight, booth, television receiver, airplane, dirt track,
apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship,
fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall,
tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal,
bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray,
ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
"""
ADE_CLASSES = ("other", *(name.strip() for name in _NAMES.replace("\n", " ").split(",")))
OTHER = 0
_SPLITS = {"training": "train", "validation": "val"}
_KINDS = ("images", "annotations")
_ARCHIVE = "from ADEChallengeData2016.zip"
_IMAGES = ("jpg", "jpeg", "png")


class Ade20k(ImageSet):
    """ADE20K: 150 classes of scenes, and 0 for what is none of them."""

    masks = MaskWords(ADE_CLASSES, OTHER)
    remarks = (
        "ade20k: value 0 of a mask is void, as in the benchmark; "
        "fungi annotate STORE --void none judges it, as the class other",
    )
    data_set = DataSet(
        name="ade20k",
        title="ADE20K, scene parsing",
        splits={"train": 20_210, "val": 2000},
        classes=151,
        bytes=1_000_000_000,
        layouts=(
            DataSetLayout(
                "as the archive unpacks",
                {
                    f"{kind}/{split}/": _ARCHIVE
                    for kind in ("images", "annotations")
                    for split in _SPLITS
                },
                ("ADEChallengeData2016",),
            ),
        ),
        split_rule="official",
        metric="mean intersection over union of 150 classes",
        papers=(FUNGI,),
        terms="images: research and education; annotations: BSD 3-clause",
        page="https://groups.csail.mit.edu/vision/datasets/ADE20K/",
    )

    def recognises(self, path: str, modality: Modality) -> bool:
        """Whether a folder has its folders."""
        needs = self.data_set.layouts[0].needs
        return all(os.path.isdir(os.path.join(path, need)) for need in needs)

    def classes(self, place: Place) -> list[str]:
        """Return no classes: those of the masks are none of the images'."""
        return []

    def rows(self, place: Place) -> Iterator[Row]:
        """Yield the images of both folders, by name."""
        for folder, split in _SPLITS.items():
            for entry in visible_entries(str(place.root / "images" / folder)):
                if suffix_of(entry.name) in _IMAGES:
                    mask = f"annotations/{folder}/{Path(entry.name).stem}.png"
                    yield Row(f"images/{folder}/{entry.name}", None, split, mask)
