"""Which mask belongs to which image: by a column of the samples, or by names in a folder."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import pyarrow.compute as pc

from fungistore.annotations.files import MASK_SUFFIXES, Place
from fungistore.errors import UsageError
from fungistore.location import absolute_uri, is_inline, locate, path_to_uri, uri_to_path
from fungistore.names import is_hidden, suffix_of
from fungistore.sources.batches import CELL
from fungistore.sources.headers import plain_header
from fungistore.store.masks import BLOCK_ROWS
from fungistore.store.samples import ROWS_PER_GROUP
from fungistore.store.store import Store

COLUMNS = ("mask", "maskpath", "maskfile", "maskfilename")  # plain forms of a column's names
# What a mask may be called behind the name of its image.
_BEHIND = re.compile(
    r"(.+?)[ _.-]+(masks?|labels?|labelids|labeltrainids|seg|segmentation|segmask|gt|groundtruth"
    r"|ground_truth|annotations?)",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True)
class Pair:
    """A row, and where its mask should be.

    Attributes:
        row: of the store.
        image: the row's item.
        seen: size and time that the image had when it was listed.
        mask: None where no mask has the image's name.
        others: masks that have it too, so that nobody knows which is meant.
    """

    row: int
    image: Place
    seen: tuple[int | None, int | None]
    mask: Place | None
    others: tuple[str, ...] = ()


def mask_column(store: Store) -> str | None:
    """Return the column of a store's samples that names their masks; None where none does."""
    columns = store.samples.columns()
    plain = {plain_header(name): name for name in reversed(columns) if columns[name] == "text"}
    return next((plain[name] for name in COLUMNS if name in plain), None)


@dataclass(frozen=True, slots=True)
class _Row:
    row: int
    root: str
    id: str
    uri: str
    split: str | None
    seen: tuple[int | None, int | None]
    mask: str | None

    @property
    def image(self) -> Place:
        return Place(self.root, self.uri)


class Matching:
    """The masks of a store's rows, by its folders of masks, the last one first, then its column.

    Attributes:
        splits: those in which a folder has masks.

    Args:
        store: the store.
        folders: of masks.

    Raises:
        UsageError: a folder has no masks.
    """

    def __init__(self, store: Store, folders: Sequence[str]) -> None:
        self._store = store
        self._column = mask_column(store)
        self.has_folders = bool(folders)
        self._found: dict[int, tuple[str, ...]] = {}
        self.splits: set[str | None] = set()
        for folder in reversed(folders):
            if os.path.isdir(folder):  # of one that is gone, the store has what it had
                self._match(folder)

    def blocks(self) -> Iterator[tuple[int, list[Pair]]]:
        """Yield the rows that have a mask, or should, 64 rows at a time; blocks without none too.

        An image without one should have one where others of its split do.
        """
        for number, rows in groupby(self._rows(), lambda row: row.row // BLOCK_ROWS):
            yield number, [pair for row in rows if (pair := self._pair(row)) is not None]

    def some(self, count: int) -> list[Place]:
        """Return some masks, from all over the rows."""
        pairs = [pair.mask for _, pairs in self.blocks() for pair in pairs if pair.mask is not None]
        return pairs[:: max(1, len(pairs) // count)][:count]

    def _pair(self, row: _Row) -> Pair | None:
        if files := self._found.get(row.row):
            places = tuple(map(path_to_uri, files))
            first = Place("/", places[0])
            return Pair(row.row, row.image, row.seen, first, places if len(places) > 1 else ())
        if row.mask:
            return Pair(row.row, row.image, row.seen, Place(row.root, row.mask))
        if row.split in self.splits:
            return Pair(row.row, row.image, row.seen, None)
        return None

    def _match(self, folder: str) -> None:
        """Find the masks of a folder: that of an image's longest path that one is called by."""
        files = _files(folder)
        matched: dict[int, tuple[bool, tuple[str, ...]]] = {}  # by the whole path?
        images: dict[tuple[bool, str], set[str]] = defaultdict(set)  # of a mask
        for row in self._rows():
            if row.row in self._found:
                continue
            for parts in _names(row):
                tails = ("/".join(parts[start:]) for start in range(len(parts)))
                own = absolute_uri(row.root, row.uri)
                for place, tail in enumerate(tails):
                    found = tuple(one for one in files.get(tail, ()) if path_to_uri(one) != own)
                    if found:
                        matched[row.row] = not place, found
                        images[not place, found[0]].add(own)
                        break
                if row.row in matched:
                    self.splits.add(row.split)
                    break
        # a/1.jpg and b/1.jpg, or 1.jpg, are not both of 1.png
        for number, (is_whole, found) in matched.items():
            others = images[True, found[0]] | (set() if is_whole else images[False, found[0]])
            self._found[number] = found if len(others) == 1 else (*found, "one of several images")

    def _rows(self) -> Iterator[_Row]:
        names = ["row", "id", "uri", "split", "bytes", "mtime"]
        for part in self._store.samples.parts:
            with self._store.samples.open(part) as file:
                cell = f"{CELL}{self._column}"
                has_column = cell in file.schema_arrow.names
                columns = [*names, *([cell] if has_column else [])]
                for batch in file.iter_batches(ROWS_PER_GROUP, columns=columns):
                    times = pc.cast(batch["mtime"], "int64").to_pylist()
                    cells = batch[cell].to_pylist() if has_column else [None] * len(batch)
                    first = (batch[name].to_pylist() for name in names[:4])
                    rows = zip(*first, batch["bytes"].to_pylist(), times, cells, strict=True)
                    for row, id_, uri, split, size, time, mask in rows:
                        yield _Row(row, part.root, id_, uri, split, (size, time), mask)


def _names(row: _Row) -> Iterator[list[str]]:
    """Yield the parts of what an image may be called by: its path, and its id."""
    paths = [] if is_inline(row.uri) else [uri_to_path(row.uri)]
    if paths and locate(row.root, row.uri).size is not None:  # a member of a shard
        paths = []
    for path in dict.fromkeys([*paths, uri_to_path(row.id)]):
        stem = path[: -1 - len(suffix_of(path))] if suffix_of(path) else path
        yield [part for part in stem.split("/") if part not in ("", ".")]
        yield [part for part in path.split("/") if part not in ("", ".")]


def _files(folder: str) -> Mapping[str, Sequence[str]]:
    """Return the masks below a folder, by their paths without suffix and what they add to a name.

    Raises:
        UsageError: there is none.
    """
    found: dict[str, list[str]] = {}
    passed: Counter[str] = Counter()
    for directory, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(names):
            suffix = suffix_of(name)
            if suffix not in MASK_SUFFIXES or is_hidden(name):
                passed[f".{suffix}"] += 1
                continue
            path = os.path.join(directory, name)
            stem = os.path.relpath(path, folder)[: -1 - len(suffix)]
            found.setdefault(stem, []).append(path)
            if behind := _BEHIND.fullmatch(stem):
                found.setdefault(behind[1], []).append(path)
    if not found:
        lossy = "JPEG changes the values of pixels: save masks as PNG, from the start"
        there = ", ".join(f"{count} x {suffix}" for suffix, count in passed.most_common(3))
        raise UsageError(
            "there are no masks in this folder",
            where=folder,
            expected=f"files that end in {', '.join('.' + one for one in MASK_SUFFIXES)}",
            found=there or "no files",
            hint=lossy if {".jpg", ".jpeg"} & passed.keys() else None,
        )
    return found
