"""Images in arrays: .npz as MedMNIST has them, IDX files of the MNIST family, HDF5."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fungistore.containers.arrays import idx_stream, npz_stream
from fungistore.errors import ItemError, UsageError
from fungistore.extras import install_command
from fungistore.location import contained_uri, mark_of, path_to_uri
from fungistore.modalities.modality import IMAGE, Modality
from fungistore.quantities import counted
from fungistore.sources.labels import class_name, known_split, sort_label_names
from fungistore.sources.sample import CellType, Sample

DAMAGED = "it may be damaged, or another kind of file: download or save it again"
_NPZ = re.compile(r"(?:(.+)_)?(images|imgs|data|x|X)")
_NPZ_SPLIT_LAST = re.compile(r"(x|X|images)_(.+)")  # x_train, as Keras has them
_NPZ_LABELS = {"images": "labels", "imgs": "labels", "data": "labels", "x": "y", "X": "y"}
_IDX = re.compile(r"(.+)-images[-.]idx3-ubyte(\.gz)?$")
_HDF5_IMAGES = ("images", "image", "data", "x", "X", "imgs")
_HDF5_LABELS = ("labels", "label", "targets", "y", "Y", "classes")
_HDF5 = (".h5", ".hdf5")
_PAIR = re.compile(r"(.*)_x\.(h5|hdf5)$")  # images, with labels beside them in ..._y.h5


@dataclass(frozen=True)
class ArrayPart:
    """Images side by side in one file.

    Attributes:
        file: its path.
        kind: of container.
        key: from the number of an image to its key.
        count: of images.
        split: or None.
        labels: of all images; None where none are known.
        ids: of all images; None: the file and the number.
        cells: further columns of all images.
    """

    file: str
    kind: str
    key: Callable[[int], str]
    count: int
    split: str | None
    labels: Sequence[str | None] | None
    ids: Sequence[str] | None = None
    cells: Mapping[str, Sequence[Any]] = field(default_factory=dict)


@dataclass
class ArraySource:
    """The images of some arrays, part after part.

    id: `<file>/<array>/<number>`, the file relative to root, unless the file names its images.

    Args:
        parts: the arrays.
        root: what ids and uris are relative to.
        names: of the classes in their order; None: those that occur, sorted.
        said: what the user should know.
    """

    parts: Sequence[ArrayPart]
    root: str
    names: Sequence[str] | None = None
    said: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.root = str(Path(self.root).absolute())

    def columns(self) -> dict[str, CellType]:
        """Return the further columns, which are text."""
        names = dict.fromkeys(name for part in self.parts for name in part.cells)
        return dict.fromkeys(names, "text")

    def knows(self) -> frozenset[str]:
        """Return what the source knows of its samples."""
        has_labels = any(part.labels is not None for part in self.parts)
        has_splits = any(part.split for part in self.parts)
        return frozenset({"label"} if has_labels else ()) | ({"split"} if has_splits else set())

    def remarks(self) -> list[str]:
        """Return what the user should know."""
        return list(self.said)

    def label_names(self) -> list[str]:
        """Return the classes."""
        if self.names is not None:
            return [class_name(name) for name in self.names]
        labels = (label for part in self.parts for label in part.labels or ())
        return sort_label_names(class_name(label) for label in labels if label)

    def __iter__(self) -> Iterator[Sample]:
        columns = list(self.columns())
        for part in self.parts:
            relative = os.path.relpath(part.file, self.root)
            info, mark = os.stat(part.file), mark_of(part.file)
            for number in range(part.count):
                key = part.key(number)
                own = part.ids[number] if part.ids else f"{relative}/{key.replace(',', '/')}"
                label = part.labels[number] if part.labels is not None else None
                cells = tuple(part.cells[n][number] if n in part.cells else None for n in columns)
                yield Sample(
                    id=path_to_uri(own),
                    uri=contained_uri(relative, part.kind, key, info.st_size, mark),
                    label=class_name(label) if label else None,
                    split=part.split,
                    mtime=info.st_mtime,
                    cells=cells,
                )


class NpzReader:
    """Images in a .npz file: `images` and `labels`, or with a split before (`train_images`)."""

    summary = "a .npz of images, as MedMNIST has them"

    def recognises(self, path: str, modality: Modality) -> bool:
        """Whether it is such a file."""
        if modality.name != IMAGE or not path.lower().endswith(".npz") or not os.path.isfile(path):
            return False
        return bool(_npz_images(path))

    def open(self, path: str, modality: Modality) -> ArraySource:
        """Return the source; see `ArraySource`."""
        images = _npz_images(path)
        if not images:
            raise UsageError(
                "no array of the file holds images",
                where=path,
                expected="images, or train_images, val_images, test_images (and ..._labels), or "
                "x_train (and y_train): [n, h, w], or with channels",
                found=", ".join(_npz_names(path)),
            )
        parts, said = [], []
        with zipfile.ZipFile(path) as archive, np.load(path, allow_pickle=False) as loaded:
            for name, (split, of_labels) in images.items():
                count = explained(path, partial(npz_stream, archive, name)).shape[0]
                labels, why = _labels(loaded, of_labels, count)
                said += [why] if why else []
                key = f"{name},{{}}".format
                parts.append(ArrayPart(path, "npz", key, count, split, labels))
        return ArraySource(parts, str(Path(path).parent), said=said)


class IdxReader:
    """IDX files of the MNIST family: one of images, or a folder of them with their labels."""

    summary = "IDX files, as MNIST has them"

    def recognises(self, path: str, modality: Modality) -> bool:
        """Whether it is such a file, or a folder of such."""
        return modality.name == IMAGE and bool(_idx_files(path))

    def open(self, path: str, modality: Modality) -> ArraySource:
        """Return the source; see `ArraySource`."""
        files = _idx_files(path)
        if not files:
            raise UsageError(
                "there are no IDX files of images",
                where=path,
                expected="train-images-idx3-ubyte and train-labels-idx1-ubyte, or t10k-...; "
                "compressed ones too",
            )
        families = {word.rpartition("-")[0] for word in files.values()}
        if len(families) > 1:  # EMNIST's: each counts classes of its own
            raise UsageError(
                "these are several data sets, whose labels mean different classes",
                where=path,
                found=", ".join(sorted(families)),
                hint="give the folder of one: move its files into a folder of their own",
            )
        parts = []
        for file, word in files.items():
            count = explained(file, partial(idx_stream, file)).shape[0]
            beside = file.replace("-images", "-labels").replace("idx3", "idx1")
            labels = None
            for one in (beside, f"{beside}.gz", beside.removesuffix(".gz")):
                if os.path.isfile(one):
                    stream = explained(one, partial(idx_stream, one))
                    numbers = [int(stream.item(number)) for number in range(stream.shape[0])]
                    stream.close()
                    labels = _fitting([str(one) for one in numbers], count, one)
                    break
            split = "test" if word == "t10k" else known_split(word.rpartition("-")[2])
            parts.append(ArrayPart(file, "idx", str, count, split, labels))
        folder = path if os.path.isdir(path) else str(Path(path).parent)
        return ArraySource(parts, folder)


class Hdf5Reader:
    """Images in an array of an HDF5 file; labels in the same, or beside it (`..._y.h5`, PCam)."""

    summary = "HDF5 with an array of images"

    def recognises(self, path: str, modality: Modality) -> bool:
        """Whether it is such a file, or a folder of files `..._x.h5`."""
        if modality.name != IMAGE:
            return False
        if os.path.isdir(path):
            return any(_PAIR.fullmatch(name) for name in _names(path))
        return path.lower().endswith(_HDF5) and os.path.isfile(path)

    def open(self, path: str, modality: Modality) -> ArraySource:
        """Return the source; see `ArraySource`."""
        try:
            import h5py
        except ImportError as error:
            raise UsageError(
                "h5py is not installed", where=path, hint=install_command("hdf5", "h5py")
            ) from error
        files = [path]
        if os.path.isdir(path):
            files = [os.path.join(path, one) for one in _names(path) if _PAIR.fullmatch(one)]
        parts, said = [], []
        for file in files:
            with explained(file, partial(h5py.File, file, "r")) as opened:
                name = next((one for one in _HDF5_IMAGES if _is_images(opened.get(one))), None)
                if name is None:
                    raise UsageError(
                        "no array of the file holds images",
                        where=file,
                        expected=f"one of {', '.join(_HDF5_IMAGES)}: [n, h, w], or with channels",
                        found=", ".join(opened),
                        hint="fungi import reads files of features",
                    )
                count = len(opened[name])
                pair = _PAIR.fullmatch(file)
                beside = f"{pair[1]}_y.{pair[2]}" if pair else ""
                if os.path.isfile(beside):
                    with h5py.File(beside, "r") as other:
                        labels, why = _first_labels(other, count)
                else:
                    labels, why = _first_labels(opened, count)
                said += [why] if why else []
            words = re.split(r"[-_.]", Path(file).stem)
            split = next((found for word in words if (found := known_split(word))), None)
            parts.append(ArrayPart(file, "hdf5", f"{name},{{}}".format, count, split, labels))
        return ArraySource(
            parts, path if os.path.isdir(path) else str(Path(path).parent), said=said
        )


def _npz_names(path: str) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile):
        return []


def _npz_images(path: str) -> dict[str, tuple[str | None, str]]:
    """Return the arrays of images by name, with their split and the name of their labels."""
    found = {}
    for name in _npz_names(path):
        if match := _NPZ_SPLIT_LAST.fullmatch(name):
            split, word = match[2], match[1]
        elif match := _NPZ.fullmatch(name):
            split, word = match[1], match[2]
        else:
            continue
        if (split is None or known_split(split)) and _may_be_images(path, name):
            labels = _NPZ_LABELS[word].join(name.rsplit(word, 1))
            found[name] = (known_split(split) if split else None, labels)
    return found


def _may_be_images(path: str, name: str) -> bool:
    """Whether an array has more than a vector an item, or nobody can tell."""
    try:
        with zipfile.ZipFile(path) as archive:
            return len(npz_stream(archive, name).shape) > 2
    except Exception:  # which reading it says
        return True


def _idx_files(path: str) -> dict[str, str]:
    """Return files of images with the first word of their names."""
    folder, names = (path, _names(path)) if os.path.isdir(path) else os.path.split(path)
    found: dict[str, str] = {}
    for name in [names] if isinstance(names, str) else names:
        match = _IDX.fullmatch(name)
        file = os.path.join(folder, name)
        if match and match[1] not in found.values() and os.path.isfile(file):
            found[file] = match[1]
    # the files of training first, as they are known
    return dict(sorted(found.items(), key=lambda one: (not one[1].endswith("train"), one[1])))


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _labels(arrays: Any, name: str, count: int) -> tuple[list[str | None] | None, str]:
    """Return the labels of an array, if it is there and has one a row, and why not."""
    if name not in arrays:
        return None, ""
    try:
        found = np.asarray(arrays[name])
    except Exception as error:  # Python's objects, or damage
        return None, f"{name} cannot be read, so that there are no labels: {error}"
    if found.ndim > 1 and found.size == len(found):
        found = found.reshape(len(found))
    if found.ndim != 1:
        return None, f"{name} has several numbers a row: such labels are not read"
    if found.dtype.kind == "f" and np.array_equal(found, np.rint(found)):
        found = found.astype(np.int64)  # numbers of classes, 1 and not 1.0
    texts = [text_of(one) for one in found.tolist()]  # h5py has words as objects
    return _fitting(texts, count, name), ""


def _first_labels(opened: Any, count: int) -> tuple[list[str | None] | None, str]:
    name = next((one for one in _HDF5_LABELS if one in opened), None)
    return (None, "") if name is None else _labels(opened, name, count)


def _fitting(labels: list[Any], count: int, where: str) -> list[str | None]:
    if len(labels) != count:
        raise UsageError(
            "labels and images are not equally many",
            where=where,
            expected=counted(count, "label"),
            found=len(labels),
        )
    return labels


def _is_images(array: Any) -> bool:
    return getattr(array, "ndim", 0) in (3, 4) and array.dtype.kind in "uifb"


def text_of(name: Any) -> str:
    """Return bytes as the text that they are, and anything else as text."""
    return name.decode() if isinstance(name, bytes) else str(name)


def explained(where: str, read: Callable[[], Any]) -> Any:
    """Return what a function reads of a file.

    Raises:
        UsageError: it raises anything.
    """
    try:
        return read()
    except ItemError as error:
        raise UsageError(
            "the file cannot be used", where=where, found=error.what, hint=error.hint or DAMAGED
        ) from error
    except Exception as error:  # a damaged file makes its library raise nearly anything
        raise UsageError(
            "the file cannot be read",
            where=where,
            found=f"{type(error).__name__}: {error}",
            hint=DAMAGED,
        ) from error
