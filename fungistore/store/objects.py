"""A store in an object store: objects appear whole, and every one that is replaced was looked at.

S3, Google Cloud Storage, Azure Blob Storage, what speaks like one of them, and `memory://NAME`
within one process. Nothing is renamed, locked or flushed; who may write is in `object_claims`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from fungistore.remote.bucket import ABSENT, THREADS, Bucket, ChangedError, open_bucket
from fungistore.remote.cache_options import object_cache
from fungistore.remote.cached import CachedBucket
from fungistore.store.backend import Bytes, Listing
from fungistore.store.locks import Claims
from fungistore.store.object_claims import LOCKS, ObjectClaims
from fungistore.store.object_reads import ObjectReads

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore


class ObjectBackend:
    """The objects below one URL.

    Args:
        bucket: of that URL.
    """

    def __init__(self, bucket: Bucket) -> None:
        self.where = bucket.where
        self._bucket = bucket
        self.claims: Claims = ObjectClaims(bucket)
        self._reads = ObjectReads(CachedBucket(bucket, object_cache()))

    def make_room(self) -> bool:
        """Whether nothing is below the URL; a bucket has no folders to make."""
        return all(one.key.startswith(f"{LOCKS}/") for one in self._bucket.below())

    def has(self, key: str) -> bool:
        """Whether there is such an object."""
        return self._bucket.find(key) is not None

    def size(self, key: str) -> int:
        """Return the bytes of an object."""
        return self._bucket.head(key).size

    def read(self, key: str) -> bytes:
        """Return an object's bytes."""
        return self._bucket.get(key)

    def list(self, key: str) -> Listing:
        """Return the names directly below a folder."""
        files, folders = self._bucket.level(key)
        names = (one.key.rpartition("/")[2] for one in files)
        hidden = {LOCKS} if not key else set()
        return Listing(tuple(sorted(names)), tuple(sorted(set(folders) - hidden)))

    def publish(self, key: str, *pieces: Bytes) -> None:
        """Put an object in the place of what was last seen there."""
        while True:
            seen = self._bucket.find(key)
            try:
                tag = self._bucket.put(key, *pieces, expected=seen.tag if seen else ABSENT)
            except ChangedError:
                continue
            self._reads.published(key, tag, pieces)
            return

    def publish_all(self, objects: Mapping[str, Sequence[Bytes]]) -> None:
        """Put several objects at once."""
        with ThreadPoolExecutor(min(THREADS, max(1, len(objects)))) as pool:
            list(pool.map(lambda item: self.publish(item[0], *item[1]), objects.items()))

    def publish_file(self, key: str, write: Callable[[Path], None]) -> None:
        """Put what `write` puts at a path."""
        with self.scratch() as path:
            write(path)
            self.publish(key, path.read_bytes())

    def append(self, key: str, lines: bytes) -> None:
        """Put the lines that are there and these."""
        try:
            before = self.read(key)
        except FileNotFoundError:
            before = b""
        cut_short = b"\n" if before and not before.endswith(b"\n") else b""
        self.publish(key, before, cut_short, lines)

    def remove(self, key: str) -> None:
        """Remove an object, and all below it."""
        keys = [one.key for one in self._bucket.below(key)]
        self._bucket.delete([*keys, key] if key else keys)

    def read_all(self, key: str) -> dict[str, bytes]:
        """Return the objects directly below a folder."""
        return self._reads.read_all(key)

    def sizes(self, keys: Collection[str]) -> dict[str, int]:
        """Return the bytes of those of some objects that are there."""
        return self._reads.sizes(keys)

    def ranges(self, key: str, starts: Sequence[int], lengths: Sequence[int]) -> Sequence[bytes]:
        """Return parts of an object, from the cache where they are there."""
        return self._reads.ranges(key, starts, lengths)

    def local_path(self, key: str) -> Path:
        """Return a copy of an object on this machine."""
        return self._reads.local_path(key)

    def directory(self, key: str = "") -> None:
        """Return None: there is no directory."""
        return None

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield the path of a temporary file."""
        with TemporaryDirectory(prefix="fungi-") as folder:
            yield Path(folder, "scratch")

    def zarr(self) -> ZarrStore:
        """Return the bucket as zarr reads it."""
        return self._reads.zarr()

    def make_folder(self, key: str) -> None:
        """Do nothing: folders exist by what is in them."""

    def settle(self) -> None:
        """Do nothing: whatever is seen is durable."""

    def leftovers(self, key: str = "") -> Iterator[str]:
        """Yield nothing: an object that was not put whole is not there."""
        return iter(())

    def is_own(self, key: str) -> bool:
        """Return True: there are no links."""
        return True

    def free_bytes(self) -> None:
        """Return None: there is no limit."""
        return None


def open_url(where: str) -> ObjectBackend:
    """Return the backend of a URL."""
    return ObjectBackend(open_bucket(where.rstrip("/")))
