"""Stanford Cars.

Layout: torchvision's StanfordCars, which the FUNGI paper's code reads (its README: the devkit, and
`cars_test_annos_withlabels.mat` by itself); and the first release, `car_ims` with `cars_annos.mat`,
whose order is by class and not by split.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fungistore.sources.sets.facts import FUNGI, DataSet, DataSetLayout
from fungistore.sources.sets.image_set import ImageSet, Row
from fungistore.sources.sets.lists import read_mat
from fungistore.sources.sets.place import Place, unnested

_ANNOTATIONS = {
    "train": "devkit/cars_train_annos.mat",
    "test": "cars_test_annos_withlabels.mat",
}
_META = "devkit/cars_meta.mat"
_FIRST_RELEASE = "cars_annos.mat"


class Cars(ImageSet):
    """Stanford Cars."""

    data_set = DataSet(
        name="cars",
        title="Stanford Cars",
        splits={"train": 8144, "test": 8041},
        classes=196,
        bytes=1_960_000_000,
        layouts=(
            DataSetLayout(
                "as torchvision reads it",
                {
                    _META: "from car_devkit.tgz",
                    _ANNOTATIONS["train"]: "from car_devkit.tgz",
                    _ANNOTATIONS["test"]: "which is offered by itself, beside devkit/",
                    "cars_train/": "from cars_train.tgz",
                    "cars_test/": "from cars_test.tgz",
                },
                ("stanford_cars", "cars/stanford_cars"),
            ),
            DataSetLayout(
                "the first release",
                {_FIRST_RELEASE: "which is offered by itself", "car_ims/": "from car_ims.tgz"},
                ("stanford_cars",),
            ),
        ),
        split_rule="official (the annotations)",
        metric="top-1 accuracy",
        papers=(FUNGI,),
        terms="non-commercial research, as ImageNet",
        page="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
    )

    def classes(self, place: Place) -> list[str]:
        """Return the names of the devkit in its order."""
        file = _META if _META in place.layout.needs else _FIRST_RELEASE
        return [str(name) for name in read_mat(place.root / file, "class_names")]

    def rows(self, place: Place) -> Iterator[Row]:
        """Yield train, then test, each in the order of its annotations."""
        names = self.classes(place)
        if _META not in place.layout.needs:
            annotations = read_mat(place.root / _FIRST_RELEASE, "annotations")
            for side, split in enumerate(("train", "test")):
                for one in annotations[annotations["test"].astype(int) == side]:
                    path = str(one["relative_im_path"])
                    yield Row(path, _named(names, one["class"]), split)
            return
        for split, file in _ANNOTATIONS.items():
            folder = unnested(place.root, f"cars_{split}")
            for one in read_mat(place.root / file, "annotations"):
                yield Row(
                    f"{folder}/{Path(str(one['fname'])).name}", _named(names, one["class"]), split
                )


def _named(names: list[str], number: int) -> str:
    if not 1 <= number <= len(names):
        raise ValueError(f"class {number} of {len(names)}")
    return names[number - 1]
