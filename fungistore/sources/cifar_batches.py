"""CIFAR-10 and CIFAR-100 in the batches that their page has for Python."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from fungistore.containers.cifar import read_plain_pickle
from fungistore.errors import UsageError
from fungistore.modalities.modality import IMAGE, Modality
from fungistore.sources.array_files import ArrayPart, ArraySource, explained, text_of

CIFAR_META = {"batches.meta": "label_names", "meta": "fine_label_names"}
CIFAR_FOLDERS = ("cifar-10-batches-py", "cifar-100-python")


class CifarReader:
    """CIFAR-10 and CIFAR-100 as their pages have them for Python; pickles that run nothing."""

    summary = "CIFAR's batches for Python"

    def recognises(self, path: str, modality: Modality) -> bool:
        """Whether a folder, or one in it, holds such batches."""
        return modality.name == IMAGE and _cifar_folder(path) is not None

    def open(self, path: str, modality: Modality) -> ArraySource:
        """Return the source; see `ArraySource`. Of CIFAR-100 the labels are the fine ones."""
        folder = _cifar_folder(path)
        if folder is None:
            raise UsageError(
                "there are no batches of CIFAR",
                where=path,
                expected="data_batch_1 to data_batch_5, test_batch and batches.meta; or train, "
                "test and meta: cifar-10-python.tar.gz or cifar-100-python.tar.gz, unpacked",
            )
        meta = next(name for name in CIFAR_META if Path(folder, name).is_file())
        named = explained(folder, partial(read_plain_pickle, Path(folder, meta)))
        names = [text_of(name) for name in named[CIFAR_META[meta]]]
        coarse = [text_of(name) for name in named.get("coarse_label_names", ())]
        batches = ["train", "test"]
        if meta == "batches.meta":
            batches = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
        parts = []
        for batch in batches:
            file = str(Path(folder, batch))
            if not os.path.isfile(file):
                raise UsageError("a batch is missing", where=file, hint="unpack the archive again")
            table = explained(file, partial(read_plain_pickle, file))
            numbers = table["labels"] if "labels" in table else table["fine_labels"]
            cells = {}
            if coarse:
                cells["coarse_label"] = [coarse[int(one)] for one in table["coarse_labels"]]
            split = "test" if batch.startswith("test") else "train"
            files = [text_of(name) for name in table.get("filenames", ())]
            parts.append(
                ArrayPart(
                    file,
                    "cifar",
                    str,
                    len(numbers),
                    split,
                    [names[int(one)] for one in numbers],
                    [f"{split}/{name}" for name in files] or None,
                    cells,
                )
            )
        return ArraySource(parts, folder, names=names)


def _cifar_folder(path: str) -> str | None:
    for folder in (path, *(os.path.join(path, name) for name in CIFAR_FOLDERS)):
        is_ten = os.path.isfile(os.path.join(folder, "batches.meta"))
        is_hundred = all(os.path.isfile(os.path.join(folder, one)) for one in ("meta", "train"))
        if is_ten or is_hundred:
            return folder
    return None
