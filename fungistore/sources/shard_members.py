"""The members of one tar shard, put together as samples: its headers and sidecars are read."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import BinaryIO

from fungistore.errors import FungiError
from fungistore.location import member_to_uri, path_to_uri
from fungistore.names import suffix_of
from fungistore.quantities import counted
from fungistore.remote.files import RemoteFile
from fungistore.sources.labels import class_name, split_name
from fungistore.sources.sample import Sample
from fungistore.sources.sidecars import Told, is_sidecar, most_read, told_by

# As in the webdataset package: the key ends at the first dot of the basename, which it may not be.
_MEMBER = re.compile(r"((?:.*/|)[^./][^./]*)\.([^/]*)", re.DOTALL)

ShardFile = BinaryIO | RemoteFile


@dataclass
class ShardMembers:
    """The samples of an open shard, in its order.

    Attributes:
        file: the shard.
        path: of it, for messages.
        shard: its name, which the ids begin with.
        mtime: of the shard.
        suffixes: of members that are items.
        several: items that have the key of another, once the samples were iterated.
        alone: sidecars without an item.

    Raises while iterating:
        FungiError: the shard is truncated or corrupt.
        OSError: the shard is an object that cannot be read.
    """

    file: ShardFile
    path: object
    shard: str
    mtime: float | None
    suffixes: Collection[str]
    several: LeftOut = field(default_factory=lambda: LeftOut())
    alone: LeftOut = field(default_factory=lambda: LeftOut())

    def __iter__(self) -> Iterator[Sample]:
        count, shard = 0, self.shard
        seen: set[int] = set()  # hashes of keys: a shard may have a million
        try:
            with tarfile.open(fileobj=self.file, mode="r:") as tar:
                for key, members in groupby(_members(tar, self.file), key=attrgetter("key")):
                    group = _grouped(tar, self.file, members, self.suffixes)
                    is_known = hash(key) in seen
                    if group.items and not is_known:
                        seen.add(hash(key))
                        yield _sample(shard, self.mtime, key, group)
                        count += 1
                    self.several.note(shard, group.items[0 if is_known else 1 :])
                    self.alone.note(shard, [] if group.items else group.sidecars)
        except FungiError:
            raise
        # A corrupt header makes tarfile raise nearly anything.
        except Exception as error:
            if isinstance(error, OSError) and error.filename and isinstance(self.file, RemoteFile):
                raise
            raise FungiError(
                "a shard is truncated or corrupt",
                where=self.path,
                found=f"{error}, after {counted(count, 'whole sample')}",
                hint="download or pack the shard again",
            ) from error


@dataclass
class LeftOut:
    """Members that are no samples and part of none: how many, and the first of them."""

    count: int = 0
    first: str = ""

    def add(self, other: LeftOut) -> None:
        """Count those of another shard, too."""
        self.first = self.first or other.first
        self.count += other.count

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
    """Adjacent members of one key: its items, the one that counts first, and its sidecars.

    `header` is what is right before that item.
    """

    items: list[_Member]
    sidecars: list[_Member]
    told: Told
    header: bytes


def _grouped(
    tar: tarfile.TarFile, file: ShardFile, members: Iterable[_Member], suffixes: Collection[str]
) -> _Group:
    items: list[tuple[_Member, bytes]] = []
    sidecars: list[_Member] = []
    contents: list[tuple[str, bytes | None]] = []
    for member in members:
        if is_sidecar(member.extension):
            sidecars.append(member)
            contents.append((member.info.name, _read(tar, member)))
        elif suffix_of(member.info.name) in suffixes:
            info = member.info  # whose header is at hand now, and far behind later on
            items.append((member, _at(file, info.offset, info.offset_data - info.offset)))
    items.sort(key=lambda item: "." in item[0].extension)  # stable
    header = items[0][1] if items else b""
    return _Group([member for member, _ in items], sidecars, told_by(contents), header)


def _sample(shard: str, mtime: float | None, key: str, group: _Group) -> Sample:
    item, told = group.items[0].info, group.told
    return Sample(
        id=path_to_uri(f"{shard}/{key}"),
        uri=member_to_uri(
            shard, item.offset_data, item.size, suffix_of(item.name), group.header, told.flaw
        ),
        label=class_name(told.label) if told.label else None,
        split=split_name(told.split),
        bytes=item.size,
        mtime=mtime,
    )


def _at(file: ShardFile, offset: int, size: int) -> bytes:
    """Return bytes of a file, whose place stays."""
    return (
        file.at(offset, size)
        if isinstance(file, RemoteFile)
        else os.pread(file.fileno(), size, offset)
    )


def _members(tar: tarfile.TarFile, file: ShardFile) -> Iterator[_Member]:
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
