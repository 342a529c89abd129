"""What is known of a data set before a file of it is read: its size, its splits, its layouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from shlex import quote
from typing import Any

from fungistore.modalities.modality import IMAGE

FUNGI, LOFF_TA = "FUNGI", "LOFF-TA"  # the papers that report numbers on a set


@dataclass(frozen=True)
class DataSetLayout:
    """One way in which a data set lies on a disk.

    Attributes:
        what: which way, such as "as torchvision unpacks it".
        needs: the files and folders below its root (folders end in /), and where each is from.
        inside: folders in which the root may be, below the path that a user gives.
        images: how many there are, where they are not those of the data set; their splits are not
            known then.
    """

    what: str
    needs: Mapping[str, str]
    inside: tuple[str, ...] = ()
    images: int | None = None


@dataclass(frozen=True)
class DataSet:
    """A data set that `fungi extract NAME:PATH` reads as its archive unpacks.

    Attributes:
        name: what it is called on the command line.
        title: what its authors call it.
        splits: images of each split, as published.
        classes: how many there are.
        bytes: its size on a disk, unpacked, about.
        layouts: the ways in which it may lie there.
        split_rule: who made the splits.
        metric: what the papers report on it.
        papers: which ones.
        terms: its licence.
        page: where licence and archives are.
        modality: what its items are: what is said here of images is said of those.
    """

    name: str
    title: str
    splits: Mapping[str, int]
    classes: int
    bytes: int
    layouts: tuple[DataSetLayout, ...]
    split_rule: str
    metric: str
    papers: tuple[str, ...]
    terms: str
    page: str
    modality: str = IMAGE

    @property
    def images(self) -> int:
        """How many there are, in all splits."""
        return sum(self.splits.values())

    @property
    def advice(self) -> str:
        """What to try where it is not as it should be."""
        return f"fungi data {quote(self.name)} says what must be where"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary, as `fungi data --json` prints it."""
        return asdict(self) | {"images": self.images}


@dataclass(frozen=True)
class DataSetCheck:
    """What of a data set is at a path.

    Attributes:
        name: of the data set.
        root: the folder that its layout begins in.
        images: how many are listed.
        splits: how many of each split.
        classes: how many there are.
        missing: listed images without a file.
        differences: what is not as published, in sentences; none if all is.
        remarks: what else the reader says.
    """

    name: str
    root: str
    images: int
    splits: Mapping[str, int]
    classes: int
    missing: int
    differences: tuple[str, ...] = ()
    remarks: tuple[str, ...] = field(default=())

    @property
    def is_as_published(self) -> bool:
        """Whether all counts are those of the publication, and all files are there."""
        return not self.differences

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self) | {"is_as_published": self.is_as_published}
