"""A data set as a kind of source: `NAME:PATH`, of images that its own files list.

Of a set of another modality, what is said here of images is said of its items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple

from fungistore.errors import UsageError
from fungistore.location import locate, path_to_uri
from fungistore.modalities.modality import Modality, find_modality
from fungistore.sources.sample import Cell, CellType, MaskWords, Sample
from fungistore.sources.sets.comparing import differences
from fungistore.sources.sets.facts import DataSet
from fungistore.sources.sets.place import Place, find_place


class Row(NamedTuple):
    """An image of a list: its path below the root, its class, its split, its mask's path.

    A set of masks has no classes of images, and others no masks; `further` has a cell for each of
    the set's further columns.
    """

    path: str
    label: str | None
    split: str
    mask: str | None = None
    further: tuple[Cell, ...] = ()


class ImageSet(ABC):
    """A reader of one data set: what its files say, in the order in which they say it."""

    data_set: ClassVar[DataSet]
    remarks: ClassVar[tuple[str, ...]] = ()  # what a user of its splits should know
    masks: ClassVar[MaskWords | None] = None  # of a set of masks
    further: ClassVar[Mapping[str, CellType]] = {}  # columns that are kept with the samples

    @property
    def summary(self) -> str:
        """What such a source is, in a few words."""
        return f"{self.data_set.title}, as its archive unpacks"

    def recognises(self, path: str, modality: Modality) -> bool:
        """Say no: its name has to be given."""
        return False

    def open(self, path: str, modality: Modality) -> ListedImages:
        """Return the source.

        Raises:
            UsageError: the data set is not there, or not all of it, or is of another modality.
        """
        if modality.name != self.data_set.modality:
            items = find_modality(self.data_set.modality).items
            raise UsageError(
                f"{self.data_set.title} is a set of {items}, and the model takes {modality.items}",
                where=f"{self.data_set.name}:{path}",
                hint=f"a model of {items}: fungi models",
            )
        return ListedImages(self, find_place(self.data_set, path))

    @abstractmethod
    def classes(self, place: Place) -> list[str]:
        """Return the names of the classes in their official order."""

    @abstractmethod
    def rows(self, place: Place) -> Iterator[Row]:
        """Yield the images in the order of the lists.

        Raises:
            UsageError, KeyError, ValueError: the lists are damaged.
        """


class ListedImages:
    """The images that a data set lists, train first; `remarks` says what is not as published.

    Ids and uris are paths below the root, so that they are the same whichever folder above is
    given. An image that is listed and not there is a sample without size and time.

    Args:
        images: the data set.
        place: where it is.

    Raises while iterating or asked for label names:
        UsageError: a list is damaged.
    """

    def __init__(self, images: ImageSet, place: Place) -> None:
        self.root = str(place.root)
        self._images = images
        self._place = place
        self._splits: Counter[str] = Counter()
        self._missing: list[str] = []

    def label_names(self) -> list[str]:
        """Return the classes in their official order."""
        try:
            return self._images.classes(self._place)
        except (KeyError, ValueError, OSError) as error:
            raise self._damaged(error) from error

    def knows(self) -> set[str]:
        """Return that labels and splits are known of every image; of a set of masks, splits."""
        return {"split"} if self._images.masks else {"label", "split"}

    def columns(self) -> dict[str, CellType]:
        """Return the column of masks, of a set that has some, and the set's further ones."""
        masks: dict[str, CellType] = {"mask": "text"} if self._images.masks else {}
        return {**masks, **self._images.further}

    def mask_words(self) -> MaskWords | None:
        """Return what the values of masks mean."""
        return self._images.masks

    def __iter__(self) -> Iterator[Sample]:
        self._splits.clear()
        self._missing.clear()
        try:
            for row in self._images.rows(self._place):
                if {"", ".."} & set(row.path.split("/")) or "\\" in row.path:
                    raise ValueError(f"{row.path!r} is no path below this folder")
                uri = path_to_uri(row.path)
                size, mtime = locate(self.root, uri).measure()
                if size is None:
                    self._missing.append(row.path)
                self._splits[row.split] += 1
                cells = (row.mask and path_to_uri(row.mask),) if self._images.masks else ()
                cells = (*cells, *row.further)
                yield Sample(uri, uri, row.label, row.split, size, mtime, cells)
        except (KeyError, ValueError, OSError) as error:
            raise self._damaged(error) from error

    def remarks(self) -> list[str]:
        """Return whose splits they are, and what the last iteration found otherwise."""
        return [*self._images.remarks, *self.differences()]

    def differences(self) -> list[str]:
        """Return what the last iteration found otherwise than published."""
        images = self._place.layout.images
        return differences(self._images.data_set, self._splits, self._missing, images)

    def _damaged(self, error: Exception) -> UsageError:
        data_set = self._images.data_set
        found = f"no entry for {error}" if isinstance(error, KeyError) else error
        return UsageError(
            f"the lists of {data_set.title} cannot be used",
            where=self.root,
            found=found,
            hint=f"unpack its archive again; {data_set.advice}",
        )
