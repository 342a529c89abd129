"""What a source yields: one plain value per item, before any byte of it is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

Cell = bool | int | float | str | None
CellType = Literal["bool", "int", "float", "text", "empty"]  # "empty" joins any other


@dataclass(frozen=True, slots=True)
class Sample:
    """One item of a source: an image, a text, or what else its modality has.

    Attributes:
        id: stable name: the path relative to the source's root, or the manifest's own id.
        uri: where the bytes are, relative to the source's root unless absolute.
        label: class name, or None where the source knows none.
        split: "train", "val" or "test" (or the manifest's own word), or None.
        bytes: size of the encoded item, None where the file is missing.
        mtime: modification time in seconds since the epoch, None where there is no file.
        cells: what else the source knows of it, one for each of `columns_of(source)`.
    """

    id: str
    uri: str
    label: str | None = None
    split: str | None = None
    bytes: int | None = None
    mtime: float | None = None
    cells: tuple[Cell, ...] = ()


@dataclass(frozen=True)
class MaskWords:
    """What a source knows of the masks that its column `mask` names.

    Attributes:
        classes: names of the classes by index.
        void: the value of pixels that are not judged; None where none is.
    """

    classes: tuple[str, ...]
    void: int | None


@dataclass(frozen=True)
class NamedItem:
    """An item that a user names on the way, and that no source need have.

    Attributes:
        text: how it was named.
        root: directory that `uri` is relative to.
        uri: where the item is.
        views: what its random views are keyed by: the id of the sample that it is, so that
            they are the stored ones, else a digest of its content.
    """

    text: str
    root: str
    uri: str
    views: str


class Source(Protocol):
    """A collection of samples in a fixed order; iterating streams it in bounded memory.

    One that knows more of its samples, as a table does, also has `columns()`, which returns the
    type of each further column by its name, and samples with `cells`; and it may have `remarks()`,
    sentences that the user should know, and `ignored()`, counts of what it has left out by a word
    for it, such as {".heic": 2}.

    A label or split of None is empty where the source knows labels or splits, and erases what a
    store has; one that does not leaves it alone. `knows()` says which of "label" and "split" it
    knows; without it, those that any of its samples has. A source of columns has `batches()`; see
    `fungistore.sources.batches`.

    A column `mask` has the paths of masks, relative to the root; a source that knows what their
    values mean has `mask_words()`.

    A source that lists all that there is, each time, has an `origin`: a word that tells it from
    others with its root. A sample that it lists no more is gone; of a source without one, nobody
    knows.
    """

    @property
    def root(self) -> str:
        """Absolute directory that relative uris are resolved against."""

    def label_names(self) -> list[str]:
        """All class names, in the order that gives them their integers."""

    def __iter__(self) -> Iterator[Sample]: ...


def columns_of(source: Source) -> dict[str, CellType]:
    """Return the columns that a source has beside those of every sample; {} of most."""
    columns = getattr(source, "columns", None)
    return dict(columns()) if columns is not None else {}


def what_is_known(source: Source) -> frozenset[str] | None:
    """Return which of "label" and "split" a source knows, None where its samples have to tell."""
    knows = getattr(source, "knows", None)
    return frozenset(knows()) if knows is not None else None


def mask_words_of(source: Source) -> MaskWords | None:
    """Return what a source says of its masks' values; None of most."""
    mask_words = getattr(source, "mask_words", None)
    return mask_words() if mask_words is not None else None


def ignored_by(source: object) -> dict[str, int]:
    """Return how much of what a source has left out, by a word for it; nothing of most."""
    ignored = getattr(source, "ignored", None)
    return dict(ignored()) if ignored is not None else {}


OF_TABLE = "table:"  # what the origin of a table's samples begins with, before its name


def origin_of(source: Source) -> str:
    """Return what tells a source from others with its root; "" of one that may be a part."""
    return str(getattr(source, "origin", ""))


def source_remarks(source: Source) -> list[str]:
    """Return what the user should know of a source; nothing of most."""
    remarks = getattr(source, "remarks", None)
    return list(remarks()) if remarks is not None else []
