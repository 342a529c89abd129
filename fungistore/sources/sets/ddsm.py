"""Screening mammography: CBIS-DDSM as The Cancer Imaging Archive and Kaggle have it, and DDSM.

CBIS-DDSM: four tables of case descriptions, whose `image file path` is a whole mammogram, and which
are the official split (Lee et al., Scientific Data 2017). A mammogram is malignant where one of its
findings is. The archive's own downloader puts each into folders of other names below the first one
of that path; Kaggle's copy has JPEGs in folders of the path's third part.

LOFF-TA reports ROC-AUC on 10,239 images of DDSM; neither the images nor its lists are published.
Their layout is that of `defaults/datasets.py` of ChrisMats/medical_transformers, earlier code of
the authors: lists of files, whose names begin with normal, benign or cancer, in two classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fungistore.sources.sets.facts import LOFF_TA, DataSet, DataSetLayout
from fungistore.sources.sets.image_set import ImageSet, Row
from fungistore.sources.sets.lists import read_lines, read_table
from fungistore.sources.sets.place import Place

_TABLES = {
    f"{kind}_case_description_{split}_set.csv": split
    for split in ("train", "test")
    for kind in ("mass", "calc")
}
_PATH, _PATHOLOGY = "image file path", "pathology"
_LISTS = {split: f"ddsm_raw_image_lists/{split}.txt" for split in ("train", "val", "test")}
_FINDINGS = {"normal": "normal", "benign": "abnormal", "cancer": "abnormal"}
_DICOM, _JPEG, _RAW = "CBIS-DDSM/", "jpeg/", "ddsm_raw/"


class Ddsm(ImageSet):
    """CBIS-DDSM, or DDSM."""

    data_set = DataSet(
        name="ddsm",
        title="CBIS-DDSM",
        splits={"train": 2458, "test": 645},
        classes=2,
        bytes=164_000_000_000,
        layouts=(
            DataSetLayout(
                "as the archive's downloader writes it (DICOM)",
                dict.fromkeys(_TABLES, "which is offered by itself")
                | {_DICOM: "from the archive's .tcia manifest"},
            ),
            DataSetLayout(
                "as Kaggle has it (JPEG)",
                {f"csv/{name}": "from the archive" for name in _TABLES}
                | {_JPEG: "from the archive"},
                ("cbis-ddsm-breast-cancer-image-dataset",),
            ),
            DataSetLayout(
                "as LOFF-TA's authors have it",
                dict.fromkeys((*_LISTS.values(), _RAW), "which is not published"),
                ("DDSM",),
                images=10_239,
            ),
        ),
        split_rule="official (the tables of cases)",
        metric="ROC-AUC",
        papers=(LOFF_TA,),
        terms="CC BY 3.0",
        page="https://www.cancerimagingarchive.net/collection/cbis-ddsm/",
    )

    def classes(self, place: Place) -> list[str]:
        """Return the negative class first."""
        if _RAW in place.layout.needs:
            return list(dict.fromkeys(_FINDINGS.values()))
        return ["benign", "malignant"]

    def rows(self, place: Place) -> Iterator[Row]:
        """Yield train first, each in the order of its tables or list."""
        if _RAW in place.layout.needs:
            for split, file in _LISTS.items():
                for path in read_lines(place.root / file):
                    label = _FINDINGS[Path(path).name.split("_")[0].lower()]
                    yield Row(f"{_RAW}{path}", label, split)
            return
        for split in ("train", "test"):
            for path, is_malignant in _mammograms(place, split).items():
                file = _file_of(place, path)
                yield Row(file, "malignant" if is_malignant else "benign", split)


def _mammograms(place: Place, split: str) -> dict[str, bool]:
    """Return the mammograms of a split, and whether one of their findings is malignant."""
    found: dict[str, bool] = {}
    for need in place.layout.needs:
        if _TABLES.get(Path(need).name) == split:
            for row in read_table(place.root / need, (_PATH, _PATHOLOGY)):
                is_malignant = row[_PATHOLOGY].upper() == "MALIGNANT"
                found[row[_PATH]] = found.get(row[_PATH], False) or is_malignant
    return found


def _file_of(place: Place, path: str) -> str:
    """Return where a mammogram is, below the root; where it should be if it is not there."""
    patient, _, series, _ = path.split("/")
    if _JPEG in place.layout.needs:
        folder, pattern = f"{_JPEG}{series}", "*.jp*g"
    elif (place.root / _DICOM / path).is_file():
        return f"{_DICOM}{path}"
    else:
        folder, pattern = f"{_DICOM}{patient}", "*/*/*.dcm"
    files = sorted((place.root / folder).glob(pattern))
    return files[0].relative_to(place.root).as_posix() if files else f"{_DICOM}{path}"
