"""A torch Dataset of images, or anything with its two methods, passed in from Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fungistore.containers.live import keep_dataset, mark_of_dataset
from fungistore.errors import UsageError
from fungistore.location import contained_uri, path_to_uri
from fungistore.names import NAME_RULE, is_plain_name
from fungistore.sources.labels import class_name, sort_label_names
from fungistore.sources.sample import Sample

LABELS = ("targets", "labels", "_labels", "y")
PAIRS = ("samples", "imgs", "_samples")  # of (path, label), as torchvision's folders have them


def is_dataset(source: object) -> bool:
    """Whether something is a dataset of items by number, and no list of paths."""
    is_listed = isinstance(source, str | bytes | Path | list | tuple) or hasattr(source, "ndim")
    has_both = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    return has_both and not is_listed and not hasattr(source, "iloc")


class DatasetSource:
    """The images of a dataset of this process.

    Items are images, or tuples or tables whose first, or `image`, is one: of Pillow, uint8 arrays
    or tensors of pixels, or floating-point ones from 0 to 1. They are read by one thread at a time,
    without loss. Labels are those that the dataset has as a list (`targets`, `labels`, `samples`),
    with the names of `classes`; its images are not read for them. Another process cannot read the
    images: it has the features, and every sample's id and label. A few images are read at once: by
    them a dataset is known again, and one of other images is not taken for it.

    Args:
        dataset: with `__getitem__` and `__len__`.
        ids: of the samples, unique; default: their numbers. Whoever may change the order of a
            dataset, or choose from it, gives ids that stay.
        labels: of the samples; default: the dataset's own.
        split: of all samples.
        name: of the dataset; default: its class.

    Raises:
        UsageError: ids or labels are not as many as the samples, or the name is not plain.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        ids: Sequence[object] | None = None,
        labels: Sequence[object] | None = None,
        split: str | None = None,
        name: str | None = None,
    ) -> None:
        self.root = str(Path.cwd())
        self._name = name or type(dataset).__name__
        if not is_plain_name(self._name):
            raise UsageError("the dataset needs a plain name", where="name", expected=NAME_RULE)
        self._count, self._split = len(dataset), split
        self._ids = None if ids is None else [str(one) for one in ids]
        self._classes = _classes(dataset)
        self._labels = list(labels) if labels is not None else _labels(dataset)
        for what, given in (("ids", self._ids), ("labels", self._labels)):
            if given is not None and len(given) != self._count:
                raise UsageError(
                    f"the dataset has another number of samples than {what}",
                    where=what,
                    expected=self._count,
                    found=len(given),
                )
        # Two of one class, such as train and test, are told apart by their images.
        self._place = f"{self._name}-{mark_of_dataset(dataset)}"
        keep_dataset(self._place, dataset)

    def knows(self) -> frozenset[str]:
        """Return what the source knows of its samples."""
        known = {"label"} if self._labels is not None else set()
        return frozenset(known | ({"split"} if self._split else set()))

    def remarks(self) -> list[str]:
        """Say where labels are missing."""
        if self._labels is not None:
            return []
        return [
            f"{self._name} has no list of labels ({', '.join((*LABELS, *PAIRS))}): "
            "fungi.DatasetSource(dataset, labels=...) gives them"
        ]

    def label_names(self) -> list[str]:
        """Return the classes of the dataset, or the labels that occur, sorted."""
        if self._classes is not None:
            return [class_name(name) for name in self._classes]
        names = (_named(label, None) for label in self._labels or ())
        return sort_label_names(name for name in names if name)

    def __iter__(self) -> Iterator[Sample]:
        for number in range(self._count):
            yield Sample(
                id=path_to_uri(self._ids[number] if self._ids else str(number)),
                uri=contained_uri(self._place, "dataset", str(number), 0),
                label=_named(self._labels[number], self._classes) if self._labels else None,
                split=self._split,
            )


def _named(label: Any, classes: Sequence[str] | None) -> str | None:
    label = label.item() if hasattr(label, "item") else label
    if label is None or (isinstance(label, float) and label != label):
        return None
    if classes is not None and isinstance(label, int):
        return class_name(classes[label]) if 0 <= label < len(classes) else None
    return class_name(str(label)) or None


def _classes(dataset: Any) -> list[str] | None:
    """Return the names of the classes, which a subset's own dataset has."""
    found = getattr(dataset, "classes", None)
    if isinstance(found, list | tuple) and found:
        return [one[0] if isinstance(one, tuple) else str(one) for one in found]
    parts = [_classes(part) for part in _parts(dataset)]
    if parts and None not in parts:
        return list(dict.fromkeys(name for part in parts for name in part or ()))
    inner = getattr(dataset, "dataset", None)
    return None if inner is None else _classes(inner)


def _parts(dataset: Any) -> list[Any]:
    """Return the datasets that torch's ConcatDataset has side by side."""
    parts = getattr(dataset, "datasets", None)
    return parts if isinstance(parts, list) else []


def _labels(dataset: Any) -> list[Any] | None:
    """Return the labels that a dataset has as a list, those of a subset or of parts among them."""
    if hasattr(dataset, "indices") and hasattr(dataset, "dataset"):  # torch's Subset
        inner = _labels(dataset.dataset)
        return None if inner is None else [inner[int(number)] for number in dataset.indices]
    if parts := _parts(dataset):  # each counts its own classes
        found = [(_classes(part), _labels(part)) for part in parts]
        if any(labels is None for _, labels in found):
            return None
        return [_named(one, classes) for classes, labels in found for one in labels or ()]
    for name in LABELS:
        own: Any = getattr(dataset, name, None)
        if _fits(own, dataset):
            return list(own)
    for name in PAIRS:
        pairs: Any = getattr(dataset, name, None)
        if _fits(pairs, dataset):
            return [pair[1] for pair in pairs]
    return None


def _fits(found: Any, dataset: Any) -> bool:
    try:
        return len(found) == len(dataset) and getattr(found, "ndim", 1) == 1
    except TypeError:
        return False
