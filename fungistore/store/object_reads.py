"""How a store in an object store is read: many requests at once, few requests, and a local cache.

A folder of records is listed, which tells each one's tag, and a compacted object beside them has
the bytes of those that were there when it was put: only the others are read. It is a cache and no
more: whatever it lacks, or has under another tag, comes from the records.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import uuid
import weakref
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest
from zarr.storage import ObjectStore

from fungistore.names import is_hidden
from fungistore.remote.bucket import ABSENT, THREADS, ChangedError
from fungistore.remote.cached import CachedBucket
from fungistore.remote.forked import refuse_fork
from fungistore.remote.heads import Head, tag_of
from fungistore.remote.read_ahead import ReadAhead
from fungistore.store.backend import Bytes
from fungistore.store.compacted import Entries, pack, unpack
from fungistore.store.units import COMMITS

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer, BufferPrototype

COMPACTED = ".records"  # beside the records; hidden, so nobody takes it for one
FEW = 32  # objects that are read one by one rather than through a compacted one
COMPACTED_AFTER = 256  # records that were put since


class ObjectReads:
    """The reading half of the backend over buckets.

    Args:
        cached: the bucket, read through the cache.
    """

    def __init__(self, cached: CachedBucket) -> None:
        self.cached = cached
        self._fresh: dict[str, Entries] = defaultdict(dict)  # records that this process has put
        self._since: dict[str, int] = defaultdict(int)
        self._lock = threading.Lock()
        self._copies: Path | None = None
        self._ahead = ReadAhead(cached.get)

    def read_all(self, folder: str) -> dict[str, bytes]:
        """Return the objects directly below a folder by their names, sorted."""
        entries = self._entries(folder)
        return {name: entries[name][1] for name in sorted(entries)}

    def sizes(self, keys: Collection[str]) -> dict[str, int]:
        """Return the bytes of those of some objects that are there."""
        return self.noted(keys, {head.key: head for head in self.heads(keys)})

    def heads(self, keys: Collection[str]) -> list[Head]:
        """Look at those of some objects of one folder that are there, and at others perhaps."""
        if len(keys) <= FEW // 4:
            with ThreadPoolExecutor(max(1, len(keys))) as pool:
                return [head for head in pool.map(self.cached.bucket.find, keys) if head]
        return list(self.cached.bucket.below(os.path.commonpath(list(keys))))

    def noted(self, keys: Collection[str], heads: Mapping[str, Head]) -> dict[str, int]:
        """Take objects for what was just told of them, and for a sequence; returns their bytes."""
        there = {key: heads[key] for key in keys if key in heads}
        self.cached.note(there.values())
        sizes = {key: head.size for key, head in there.items()}
        if len(keys) > 1:
            self._ahead.follow(os.path.commonpath(list(keys)), sizes)
        return sizes

    def ranges(self, key: str, starts: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
        """Return parts of an object."""
        return self.cached.get_ranges(key, starts, lengths)

    def local_path(self, key: str) -> Path:
        """Return a copy of an object on this machine, in the cache or a folder of this process."""
        path = self.cached.path(key)
        if path is not None:
            return path
        return self.copy_of(key, self.cached.bucket.get(key))

    def copy_of(self, key: str, data: bytes) -> Path:
        """Return a new file with some bytes in a folder of this process."""
        if self._copies is None:
            self._copies = Path(mkdtemp(prefix="fungi-"))
            weakref.finalize(self, shutil.rmtree, self._copies, ignore_errors=True)
        path = self._copies / f"{uuid.uuid4().hex}-{key.rpartition('/')[2][-100:]}"
        path.write_bytes(data)
        return path

    def zarr(self) -> ObjectStore[Any]:
        """Return what zarr reads arrays from."""
        return CachedObjects(self.cached, self._ahead)

    def published(self, key: str, tag: str | None, pieces: Sequence[Bytes]) -> None:
        """Note that this process has put an object; compacts its folder now and then."""
        self.cached.forget(key)
        self._ahead.forget(key)
        folder, _, name = key.rpartition("/")
        if tag is None or not key.startswith(f"{COMMITS}/") or is_hidden(name):
            return
        with self._lock:
            self._fresh[folder][name] = tag, b"".join(pieces)
            self._since[folder] += 1
            is_due = self._since[folder] >= COMPACTED_AFTER
            if is_due:
                self._since[folder] = 0
        if is_due:
            self.compact(folder)

    def finish(self) -> None:
        """Compact the folders into which this process has put more than a few records."""
        for folder in [name for name, count in self._since.items() if count > FEW]:
            self._since[folder] = 0
            self.compact(folder)

    def compact(self, folder: str) -> None:
        """Put what `read_all` finds into one object; nothing depends on it, so nothing fails."""
        key = f"{folder}/{COMPACTED}"
        with suppress(OSError):  # another writer's is there by now, or the server's mood
            seen = self.cached.bucket.find(key)
            data = pack(self._entries(folder))
            self.cached.bucket.put(key, data, expected=seen.state if seen else ABSENT)
            with self._lock:
                self._fresh.pop(folder, None)

    def _entries(self, folder: str) -> Entries:
        """Return tag and bytes of the objects directly below a folder by their names."""
        every = self.cached.bucket.below(folder)
        heads = [one for one in every if "/" not in one.key[len(folder) + 1 :]]
        self.cached.note(one for one in heads if one.key.endswith(f"/{COMPACTED}"))
        there = {one.key.rpartition("/")[2]: one for one in heads}
        compacted = there.get(COMPACTED)
        wanted = {name: tag_of(head) for name, head in there.items() if not is_hidden(name)}
        known = _still(wanted, self._fresh.get(folder, {}))
        if len(wanted) - len(known) > FEW:
            known |= _still(wanted, unpack(self.cached.noted_text(f"{folder}/{COMPACTED}")))
        if len(wanted) - len(known) > FEW and compacted is not None:
            known |= _still(wanted, unpack(self._compacted(compacted)))
        rest = [there[name].key for name in wanted if name not in known]
        known |= self._read(rest)
        if len(rest) > FEW:
            self.cached.note_text(f"{folder}/{COMPACTED}", pack(known))
        return known

    def _compacted(self, head: Head) -> bytes | None:
        try:
            return self.cached.get(head.key)
        except (FileNotFoundError, ChangedError):
            return None

    def _read(self, keys: Sequence[str]) -> Entries:
        """Read objects, those that are there, with the tags that they have now."""
        with ThreadPoolExecutor(min(THREADS, max(1, len(keys)))) as pool:
            found = zip(keys, pool.map(self._read_one, keys), strict=True)
            return {key.rpartition("/")[2]: one for key, one in found if one is not None}

    def _read_one(self, key: str) -> tuple[str, bytes] | None:
        try:
            data, head = self.cached.bucket.read(key)
        except FileNotFoundError:  # removed since it was listed
            return None
        return tag_of(head), data


def _still(wanted: dict[str, str], entries: Entries) -> Entries:
    """Return those entries that have the tag which is wanted."""
    return {name: one for name, one in entries.items() if wanted.get(name) == one[0]}


class CachedObjects(ObjectStore[Any]):
    """A bucket as zarr reads it, through the cache, and with the errors of a disk.

    Args:
        cached: the bucket.
        ahead: what reads whole objects; default: one by one.
    """

    def __init__(self, cached: CachedBucket, ahead: ReadAhead | None = None) -> None:
        super().__init__(cached.bucket.store, read_only=True)
        self._cached = cached
        self._get = cached.get if ahead is None else ahead.get
        self._pool: ThreadPoolExecutor | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return CachedObjects, (self._cached,)

    def with_read_only(self, read_only: bool = False) -> CachedObjects:
        """Return itself: it is only read, whatever zarr asks for."""
        return self

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return an object, or a part of one; None where there is none."""
        refuse_fork()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, "fungi-read")
        loop = asyncio.get_running_loop()
        try:
            data = await loop.run_in_executor(self._pool, self._read, key, byte_range)
        except FileNotFoundError:
            return None
        return prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return several parts of objects."""
        return list(
            await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges))
        )

    def _read(self, key: str, part: ByteRequest | None) -> bytes:
        if part is None:
            if data := self._get(key):
                return data
            raise ValueError("the object is empty")  # zarr would take it for the fill value
        size = self._cached.head(key).size
        if isinstance(part, RangeByteRequest):
            start, stop = part.start, min(part.end, size)
        elif isinstance(part, OffsetByteRequest):
            start, stop = part.offset, size
        else:
            start, stop = max(0, size - part.suffix), size
        return self._cached.get_ranges(key, [start], [max(0, stop - start)])[0]
