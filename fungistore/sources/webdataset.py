"""WebDataset shards: tar files whose adjacent members `key.jpg`, `key.cls` are one sample.

Nothing is extracted. A member's name is only a name, so `../` or a leading `/` in it harms nobody.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from fungistore.errors import FungiError
from fungistore.fingerprint import digest_ids
from fungistore.modalities.modality import Modality
from fungistore.quantities import counted
from fungistore.remote.places import absolute, parent, relative
from fungistore.remote.urls import is_url
from fungistore.sources.labels import sort_label_names
from fungistore.sources.sample import Sample
from fungistore.sources.shard_listing import listings
from fungistore.sources.shard_members import LeftOut, ShardMembers
from fungistore.sources.shards import check_shards, expand_braces, find_shards, is_shard_name


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
        if is_url(path):
            is_folder = not is_shard_name(path)
            paths = find_shards(path, modality.suffixes) if is_folder else expand_braces(path)
            fixed, _, _ = path.partition("{")
            root = path if is_folder else parent(f"{fixed}*")
            return TarSource(paths, root, modality.suffixes)
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
        self.root = absolute(root)
        self._suffixes = suffixes
        self._several, self._alone = LeftOut(), LeftOut()
        self.shards = [relative(path, self.root) for path in check_shards(paths)]

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
        if is_url(self.root):
            for listing in listings(self.root, self.shards, self._suffixes):
                self._several.add(listing.several)
                self._alone.add(listing.alone)
                yield from listing
            return
        for shard in self.shards:
            yield from self._samples(shard)

    def _samples(self, shard: str) -> Iterator[Sample]:
        path = Path(self.root, shard)
        try:
            file = path.open("rb")
        except OSError as error:
            raise FungiError(
                "a shard cannot be read", where=path, found=error.strerror or error
            ) from error
        with file:
            mtime = os.fstat(file.fileno()).st_mtime
            members = ShardMembers(file, path, shard, mtime, self._suffixes)
            yield from members
        self._several.add(members.several)
        self._alone.add(members.alone)
