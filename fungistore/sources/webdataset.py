"""WebDataset shards: tar files whose adjacent members `key.jpg`, `key.cls` are one sample.

Nothing is extracted. A member's name is only a name, so `../` or a leading `/` in it harms nobody.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO

from fungistore.errors import FungiError
from fungistore.fingerprint import digest_ids
from fungistore.location import member_to_uri, path_to_uri
from fungistore.modalities.modality import Modality
from fungistore.names import suffix_of
from fungistore.quantities import counted
from fungistore.sources.labels import class_name, sort_label_names, split_name
from fungistore.sources.sample import Sample
from fungistore.sources.shards import check_shard, expand_braces, find_shards, is_shard_name
from fungistore.sources.sidecars import Told, is_sidecar, most_read, told_by

# As in the webdataset package: the key ends at the first dot of the basename, which it may not be.
_MEMBER = re.compile(r"((?:.*/|)[^./][^./]*)\.([^/]*)", re.DOTALL)


class TarReader:
    """WebDataset shards: one, a folder of them, or a brace pattern."""

    summary = "WebDataset .tar shards"

    def recognises(self, path: str, modality: Modality) -> bool:
        """Whether it is a shard, a pattern of shards, or a folder of shards alone."""
        if os.path.isdir(path):
            return bool(find_shards(path, modality.suffixes))
        return is_shard_name(path) and ("{" in path or os.path.exists(path))

    def open(self, path: str, modality: Modality) -> TarSource:
        """Return the source; see `TarSource`."""
        if os.path.isdir(path):
            return TarSource(find_shards(path, modality.suffixes), path, modality.suffixes)
        if os.path.exists(path):
            return TarSource([path], str(Path(path).parent), modality.suffixes)
        fixed, _, _ = path.partition("{")
        return TarSource(expand_braces(path), str(Path(fixed + "*").parent), modality.suffixes)


class TarSource:
    """The samples of tar shards, in the shards' order.

    id: `<shard>/<key>`, the shard relative to root, the key without extensions. uri: the place of
    the key's item in the shard, which is its member `<key>.<suffix>`, or else the first one of
    these suffixes, as `<key>.seg.png`. Label and split: as `fungistore.sources.sidecars` finds them
    beside it; where a sidecar is broken, the item is listed as one that cannot be read. Keys
    without an item are skipped. A sample's mtime is the shard's. `remarks` counts what an iteration
    has left out.

    Args:
        paths: the shards.
        root: what ids and uris are relative to.
        suffixes: of members that are items, as a modality has them.

    Raises:
        UsageError: a shard is missing or compressed.
        FungiError: while iterating, a shard is truncated or corrupt.
    """

    def __init__(self, paths: Iterable[str], root: str, suffixes: Collection[str]) -> None:
        self.root = str(Path(root).absolute())
        self._suffixes = suffixes
        self._several, self._alone = LeftOut(), LeftOut()
        self.shards = [os.path.relpath(check_shard(path), root) for path in paths]

    @property
    def origin(self) -> str:
        """Which shards they are."""
        return f"tar:{digest_ids(self.shards)}"

    def label_names(self) -> list[str]:
        """Pass over all shards once, reading only headers and labels."""
        return sort_label_names(sample.label for sample in self if sample.label is not None)

    def remarks(self) -> list[str]:
        """Return how many items and sidecars the last iteration has left out."""
        several, alone = self._several, self._alone
        said = []
        if several:
            said.append(
                f"{counted(several.count, 'item has', 'items have')} the key of another and were "
                f"left out, such as {several.first}: a key ends at the first dot of a name, and "
                "has one item"
            )
        if alone:
            said.append(
                f"{counted(alone.count, 'sidecar has', 'sidecars have')} no item beside them, such "
                f"as {alone.first}: members of one key have to be adjacent (tar --sort=name)"
            )
        return said

    def ignored(self) -> dict[str, int]:
        """Return how many items and sidecars the last iteration has left out."""
        several, alone = self._several.count, self._alone.count
        counts = {"further items of a key": several, "sidecars without an item": alone}
        return {what: count for what, count in counts.items() if count}

    def __iter__(self) -> Iterator[Sample]:
        self._several, self._alone = LeftOut(), LeftOut()
        for shard in self.shards:
            yield from self._samples(shard)

    def _samples(self, shard: str) -> Iterator[Sample]:
        path = Path(self.root, shard)
        count = 0
        seen: set[int] = set()  # hashes of keys: a shard may have a million
        try:
            with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
                mtime = os.fstat(file.fileno()).st_mtime
                for key, members in groupby(_members(tar, file), key=attrgetter("key")):
                    group = _grouped(tar, members, self._suffixes)
                    is_known = hash(key) in seen
                    if group.items and not is_known:
                        seen.add(hash(key))
                        yield _sample(file, shard, mtime, key, group)
                        count += 1
                    self._several.note(shard, group.items[0 if is_known else 1 :])
                    self._alone.note(shard, [] if group.items else group.sidecars)
        except FungiError:
            raise
        # A corrupt header makes tarfile raise nearly anything.
        except Exception as error:
            raise FungiError(
                "a shard is truncated or corrupt",
                where=path,
                found=f"{error}, after {counted(count, 'whole sample')}",
                hint="download or pack the shard again",
            ) from error


@dataclass
class LeftOut:
    """Members that are no samples and part of none: how many, and the first of them."""

    count: int = 0
    first: str = ""

    def note(self, shard: str, members: Sequence[_Member]) -> None:
        """Count some more."""
        if members and not self.count:
            self.first = path_to_uri(f"{shard}/{members[0].info.name}")
        self.count += len(members)

    def __bool__(self) -> bool:
        return self.count > 0


@dataclass(frozen=True, slots=True)
class _Member:
    key: str
    extension: str
    info: tarfile.TarInfo


@dataclass(frozen=True, slots=True)
class _Group:
    """Adjacent members of one key: its items, the one that counts first, and its sidecars."""

    items: list[_Member]
    sidecars: list[_Member]
    told: Told


def _grouped(tar: tarfile.TarFile, members: Iterable[_Member], suffixes: Collection[str]) -> _Group:
    items: list[_Member] = []
    sidecars: list[_Member] = []
    contents: list[tuple[str, bytes | None]] = []
    for member in members:
        if is_sidecar(member.extension):
            sidecars.append(member)
            contents.append((member.info.name, _read(tar, member)))
        elif suffix_of(member.info.name) in suffixes:
            items.append(member)
    items.sort(key=lambda member: "." in member.extension)  # stable
    return _Group(items, sidecars, told_by(contents))


def _sample(file: BinaryIO, shard: str, mtime: float, key: str, group: _Group) -> Sample:
    item, told = group.items[0].info, group.told
    header = os.pread(file.fileno(), item.offset_data - item.offset, item.offset)
    return Sample(
        id=path_to_uri(f"{shard}/{key}"),
        uri=member_to_uri(
            shard, item.offset_data, item.size, suffix_of(item.name), header, told.flaw
        ),
        label=class_name(told.label) if told.label else None,
        split=split_name(told.split),
        bytes=item.size,
        mtime=mtime,
    )


def _members(tar: tarfile.TarFile, file: BinaryIO) -> Iterator[_Member]:
    """Yield the regular files that have a key."""
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # tarfile remembers all of them
        if member.size < 0:
            raise tarfile.ReadError("a member has a negative size")
        name = _MEMBER.fullmatch(member.name)
        if name and member.isreg() and not member.issparse():
            yield _Member(name[1], name[2], member)
    # tarfile takes a damaged header for the end, but the end is zeros or nothing.
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"bad header at byte {tar.offset}")


def _read(tar: tarfile.TarFile, member: _Member) -> bytes | None:
    if member.info.size > most_read(member.extension):
        return None
    content = tar.extractfile(member.info)
    return content.read() if content is not None else None
