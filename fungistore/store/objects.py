"""A store in an object store: objects appear whole, and every one that is replaced was looked at.

S3, Google Cloud Storage, Azure Blob Storage, what speaks like one of them, and `memory://NAME`
within one process. Nothing is renamed, locked or flushed; who may write is in `object_claims`.
"""

from __future__ import annotations

import errno
import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING
from uuid import uuid4

from fungistore.remote.bucket import (
    ABSENT,
    DELETED_AT_ONCE,
    THREADS,
    Bucket,
    ChangedError,
    Head,
    Patience,
    open_bucket,
)
from fungistore.store.backend import Bytes, Listing
from fungistore.store.locks import Claims
from fungistore.store.object_claims import LEASE_SECONDS, LOCKS, ObjectClaims
from fungistore.store.object_lines import APPENDED, ObjectLines, grows
from fungistore.store.object_zarr import BucketReads

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore

MOST_TRIES = 30
WHOLE_BYTES = 256 << 20  # of a file that is put in one request, from memory
HIDDEN = {LOCKS, APPENDED}


class ObjectBackend:
    """The objects below one URL.

    Args:
        bucket: of that URL.
        claims: on what is below it.
    """

    def __init__(self, bucket: Bucket, claims: ObjectClaims) -> None:
        self.where = bucket.where
        self._bucket = bucket
        self.claims: Claims = claims
        self._claims = claims
        self._lines = ObjectLines(bucket, self._put)
        self._copies: dict[str, tuple[str | None, Path]] = {}
        self._copied = Path(mkdtemp(prefix="fungi-"))
        weakref.finalize(self, shutil.rmtree, self._copied, ignore_errors=True)

    def make_room(self) -> bool:
        """Whether nothing is below the URL; a bucket has no folders to make."""
        self._claims.remember()
        files, folders = self._bucket.level()
        return not files and HIDDEN.issuperset(folders)

    def has(self, key: str) -> bool:
        """Whether there is such an object."""
        return self._bucket.find(key) is not None

    def size(self, key: str) -> int:
        """Return the bytes of an object."""
        if grows(key):
            return len(self.read(key))
        return self._bucket.head(key).size

    def read(self, key: str) -> bytes:
        """Return an object's bytes."""
        return self._lines.read(key) if grows(key) else self._bucket.get(key)

    def list(self, key: str) -> Listing:
        """Return the names directly below a folder."""
        files, folders = self._bucket.level(key)
        names = (one.key.rpartition("/")[2] for one in files)
        hidden = HIDDEN if not key else set()
        return Listing(tuple(sorted(names)), tuple(sorted(set(folders) - hidden)))

    def publish(self, key: str, *pieces: Bytes) -> None:
        """Put an object in the place of what is there; see `_put`."""
        if grows(key):
            self._lines.publish(key, *pieces)
        else:
            self._put(key, *pieces)

    def _put(self, key: str, *pieces: Bytes) -> None:
        """Put an object in the place of what was last seen there: look, check, put on condition.

        A writer may be paused anywhere in between, for longer than its lease, and another may own
        the key when it is woken. What the next owner has put is another object than the one that
        was looked at while the lease was alive, so the late put is refused. What arrives before the
        next owner puts is replaced: its own put finds it, at its look or when it is refused. Where
        the next owner puts nothing, it found a record of that very chunk, and no late put differs
        in the rows that it vouches for, or verification says so by their checksums.
        So the state of the object tells all that a fencing number in a record could.

        Raises:
            LeaseLostError: another process has taken over what this one holds.
        """
        for _ in range(MOST_TRIES):
            seen = self._bucket.find(key)
            self._claims.check()
            try:
                self._bucket.put(key, *pieces, expected=seen.state if seen else ABSENT)
            except (ChangedError, FileNotFoundError):  # FileNotFoundError: replaced, but gone
                continue  # own repetition, or a late put of a dead owner
            return
        where = f"{self.where}/{key}"
        raise OSError(errno.EIO, f"others changed the object {MOST_TRIES} times", where)

    def publish_all(self, objects: Mapping[str, Sequence[Bytes]]) -> None:
        """Put several objects at once."""
        with ThreadPoolExecutor(min(THREADS, max(1, len(objects))), "fungi-put") as pool:
            list(pool.map(lambda item: self.publish(item[0], *item[1]), objects.items()))

    def publish_file(self, key: str, write: Callable[[Path], None]) -> None:
        """Put what `write` puts at a path.

        A large file is sent in parts, and S3's protocol, as obstore speaks it, knows no condition
        for these: the lease is looked at between the last part and the request that lets the object
        appear. A writer that is paused within that request can replace what a next owner has put.
        Files that are so large are indexes and tables, whose records have their checksums.
        """
        with self.scratch() as path:
            write(path)
            if path.stat().st_size <= WHOLE_BYTES:
                self.publish(key, path.read_bytes())
                return
            seen = self._bucket.find(key)
            self._bucket.put_parts(key, path, lambda: self._check(key, seen))

    def _check(self, key: str, seen: Head | None) -> None:
        """Return if an object is as it was seen and all claims are alive."""
        now = self._bucket.find(key)
        self._claims.check()
        if (now and now.state) != (seen and seen.state):
            raise ChangedError(errno.EEXIST, "another has put the object", f"{self.where}/{key}")

    def append(self, key: str, lines: bytes) -> None:
        """Put lines beside the object that they continue; see `object_lines`."""
        if grows(key):
            self._lines.append(key, lines)
            return
        try:
            before = self.read(key)
        except FileNotFoundError:
            before = b""
        cut_short = b"\n" if before and not before.endswith(b"\n") else b""
        self.publish(key, before, cut_short, lines)

    def remove(self, key: str) -> None:
        """Remove an object, and all below it.

        No condition can be put on that. A writer that is paused within the very request, and woken
        later, removes what a next owner has put: records are removed first, and without a record a
        unit counts as not written, so work is lost by that and nothing is told wrongly.
        """
        keys = [one.key for one in self._bucket.below(key)]
        if key:
            keys += [*(one.key for one in self._bucket.below(f"{APPENDED}/{key}")), key]
        self._claims.check()
        if not key:
            self._claims.forget()
        for start in range(0, len(keys), DELETED_AT_ONCE):
            self._claims.check()
            self._bucket.delete(keys[start : start + DELETED_AT_ONCE])

    def local_path(self, key: str) -> Path:
        """Return a copy of an object on this machine."""
        head = self._bucket.head(key)
        tag, path = self._copies.get(key, (None, Path()))
        if grows(key) or tag is None or tag != head.state:
            path = self._copied / uuid4().hex
            path.write_bytes(self.read(key))
            self._copies[key] = (head.state, path)
        return path

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
        return BucketReads(self._bucket)

    def make_folder(self, key: str) -> None:
        """Do nothing: folders exist by what is in them."""

    def settle(self) -> None:
        """Do nothing: whatever is seen is durable."""

    def leftovers(self, key: str = "") -> Iterator[str]:
        """Yield the lines that continue an object that has been replaced since.

        An upload in parts that was interrupted is not listed: a rule of the bucket ends it.
        """
        return self._lines.leftovers() if not key else iter(())

    def is_own(self, key: str) -> bool:
        """Return True: there are no links."""
        return True

    def free_bytes(self) -> None:
        """Return None: there is no limit."""
        return None


def open_url(where: str) -> ObjectBackend:
    """Return the backend of a URL."""
    url = where.rstrip("/")
    hasty = Patience(request=LEASE_SECONDS / 6, together=LEASE_SECONDS / 3)
    return ObjectBackend(open_bucket(url), ObjectClaims(open_bucket(url, hasty)))
