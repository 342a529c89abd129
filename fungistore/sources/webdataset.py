"""WebDataset shards: tar files whose adjacent members `key.jpg`, `key.cls` are one sample.

Nothing is extracted. A member's name is only a name, so `../` or a leading `/` in it harms nobody.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Collection, Iterable, Iterator
from itertools import groupby
from operator import itemgetter
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

# The fields of a sample's .json that name its class; the first one with text or an integer counts.
LABEL_FIELDS = ("label", "cls", "class_name")

# As in the webdataset package: the key ends at the first dot of the basename, which it may not be.
_MEMBER = re.compile(r"((?:.*/|)[^./][^./]*)\.([^/]*)", re.DOTALL)
# Labels and captions are short; anything longer is no metadata, and would fill the memory.
_LONGEST_TEXT = 1 << 24


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
    the key's item in the shard, which is its first member of these suffixes. Label: the text of
    `<key>.cls`, or LABEL_FIELDS of `<key>.json`, whose `split` is the split. Keys without an item
    are skipped. A sample's mtime is the shard's.

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
        self.shards = [os.path.relpath(check_shard(path), root) for path in paths]

    @property
    def origin(self) -> str:
        """Which shards they are."""
        return f"tar:{digest_ids(self.shards)}"

    def label_names(self) -> list[str]:
        """Pass over all shards once, reading only headers and labels."""
        return sort_label_names(sample.label for sample in self if sample.label is not None)

    def __iter__(self) -> Iterator[Sample]:
        for shard in self.shards:
            yield from self._samples(shard)

    def _samples(self, shard: str) -> Iterator[Sample]:
        path = Path(self.root, shard)
        count = 0
        try:
            with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
                mtime = os.fstat(file.fileno()).st_mtime
                for key, members in groupby(_members(tar, file), key=itemgetter(0)):
                    if sample := self._sample(tar, shard, mtime, key, members):
                        yield sample
                        count += 1
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

    def _sample(
        self,
        tar: tarfile.TarFile,
        shard: str,
        mtime: float,
        key: str,
        members: Iterator[tuple[str, tarfile.TarInfo]],
    ) -> Sample | None:
        item: tarfile.TarInfo | None = None
        label: str | None = None
        fields: dict[str, object] = {}
        for _, member in members:
            if member.name == f"{key}.cls":
                label = _read(tar, member).decode(errors="backslashreplace").strip() or None
            elif member.name == f"{key}.json":
                fields = _read_json(tar, member)
            elif item is None and suffix_of(member.name) in self._suffixes:
                item = member
        if item is None:
            return None
        named = (_text(fields.get(name)) for name in LABEL_FIELDS)
        label = label or next(filter(None, named), None)
        split = _text(fields.get("split"))
        return Sample(
            id=path_to_uri(f"{shard}/{key}"),
            uri=member_to_uri(shard, item.offset_data, item.size, suffix_of(item.name)),
            label=class_name(label) if label else None,
            split=split_name(split),
            bytes=item.size,
            mtime=mtime,
        )


def _members(tar: tarfile.TarFile, file: BinaryIO) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Yield (key, member) for the regular files that have a key."""
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # tarfile remembers all of them
        if member.size < 0:
            raise tarfile.ReadError("a member has a negative size")
        name = _MEMBER.fullmatch(member.name)
        if name and member.isreg() and not member.issparse():
            yield name[1], member
    # tarfile takes a damaged header for the end, but the end is zeros or nothing.
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"bad header at byte {tar.offset}")


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = tar.extractfile(member)
    if content is None or member.size > _LONGEST_TEXT:
        raise tarfile.ReadError(f"{member.name} is too long for metadata")
    return content.read()


def _read_json(tar: tarfile.TarFile, member: tarfile.TarInfo) -> dict[str, object]:
    try:
        fields = json.loads(_read(tar, member))
    except ValueError as error:
        raise tarfile.ReadError(f"{member.name} is not JSON: {error}") from error
    return fields if isinstance(fields, dict) else {}


def _text(value: object) -> str | None:
    """Return text and integers as text that any format can store, None for anything else."""
    if not isinstance(value, str | int) or value == "":
        return None
    return str(value).encode(errors="backslashreplace").decode()
