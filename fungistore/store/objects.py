"""A store in an object store: objects appear whole, and every one that is replaced was looked at.

S3, Google Cloud Storage, Azure Blob Storage, what speaks like one of them, and `memory://NAME`
within one process. Nothing is renamed, locked or flushed; who may write is in `object_claims`.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from fungistore.remote.asked import Asked
from fungistore.remote.bucket import (
    ABSENT,
    DELETED_AT_ONCE,
    THREADS,
    Bucket,
    ChangedError,
    Patience,
    open_bucket,
)
from fungistore.remote.cache_options import object_cache
from fungistore.remote.cached import CachedBucket
from fungistore.remote.heads import Head
from fungistore.store.backend import Bytes, Kind, Listing
from fungistore.store.locks import Claims
from fungistore.store.object_claims import LEASE_SECONDS, LOCKS, ObjectClaims
from fungistore.store.object_lines import APPENDED, ObjectLines, grows
from fungistore.store.object_reads import ObjectReads

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore

MOST_TRIES = 30
MOST_CUTS = 8  # of one put, the last after some 13 seconds
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
        self._reads = ObjectReads(CachedBucket(bucket, object_cache()))
        self._asked = Asked()
        claims.finishing = self._reads.finish

    def __reduce__(self) -> tuple[object, ...]:
        return open_url, self._reads.cached.known  # as a worker process of a DataLoader opens it

    def once(self) -> AbstractContextManager[None]:
        """Ask the server once for what this thread asks within."""
        return self._asked.once()

    def soon(self, kind: Kind, *keys: str) -> None:
        """Begin requests, in other threads."""
        ask = self._below if kind == "sizes" else getattr(self, f"_{kind}")
        for key in keys:
            self._asked.begin(kind, key, ask)

    def make_room(self) -> bool:
        """Whether nothing is below the URL; a bucket has no folders to make."""
        self._claims.remember()
        files, folders = self._bucket.level()
        return not files and HIDDEN.issuperset(folders)

    def has(self, key: str) -> bool:
        """Whether there is such an object."""
        for kind, ask in (("read", self.read), ("local_path", self.local_path)):
            if self._asked.knows(kind, key):
                try:
                    ask(key)
                except FileNotFoundError:
                    return False
                return True
        return self._asked.get("find", key, self._bucket.find) is not None

    def size(self, key: str) -> int:
        """Return the bytes of an object."""
        if grows(key):
            return len(self.read(key))
        return self._bucket.head(key).size

    def read(self, key: str) -> bytes:
        """Return an object's bytes."""
        return self._asked.get("read", key, self._read)

    def _read(self, key: str) -> bytes:
        return self._lines.read(key) if grows(key) else self._bucket.get(key)

    def list(self, key: str) -> Listing:
        """Return the names directly below a folder."""
        return self._asked.get("list", key, self._list)

    def _list(self, key: str) -> Listing:
        files, folders = self._bucket.level(key)
        names = (one.key.rpartition("/")[2] for one in files)
        hidden = HIDDEN if not key else set()
        return Listing(tuple(sorted(names)), tuple(sorted(set(folders) - hidden)))

    def publish(self, key: str, *pieces: Bytes) -> None:
        """Put an object in the place of what is there; see `_put`."""
        self._asked.forget()
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
        for number in range(MOST_TRIES):
            seen = self._bucket.find(key)
            self._claims.check()
            try:
                state = self._bucket.put(key, *pieces, expected=seen.state if seen else ABSENT)
            except (ChangedError, FileNotFoundError):  # a late put of a dead owner, or a removal
                if not self._is(key, pieces):
                    continue
                state = None  # obstore's repetition: the first was done and not told
            except OSError as error:  # obstore repeats no conditional put that was cut off
                if error.errno != errno.EIO or number >= MOST_CUTS:
                    raise
                time.sleep(0.05 * 2**number)
                continue
            self._reads.published(key, state, pieces)
            return
        where = f"{self.where}/{key}"
        raise OSError(errno.EIO, f"others changed the object {MOST_TRIES} times", where)

    def _is(self, key: str, pieces: Sequence[Bytes]) -> bool:
        """Whether an object is of some bytes."""
        head = self._bucket.find(key)
        if head is None or head.size != sum(memoryview(piece).nbytes for piece in pieces):
            return False
        with suppress(FileNotFoundError):
            return self._bucket.get(key) == b"".join(pieces)
        return False

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
        self._asked.forget()
        with self.scratch() as path:
            write(path)
            if path.stat().st_size <= WHOLE_BYTES:
                self.publish(key, path.read_bytes())
                return
            seen = self._bucket.find(key)
            self._reads.published(key, None, ())
            self._bucket.put_parts(key, path, lambda: self._check(key, seen))

    def _check(self, key: str, seen: Head | None) -> None:
        """Return if an object is as it was seen and all claims are alive."""
        now = self._bucket.find(key)
        self._claims.check()
        if (now and now.state) != (seen and seen.state):
            raise ChangedError(errno.EEXIST, "another has put the object", f"{self.where}/{key}")

    def append(self, key: str, lines: bytes) -> None:
        """Put lines beside the object that they continue; see `object_lines`."""
        self._asked.forget()
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
        self._asked.forget()
        keys = [one.key for one in self._bucket.below(key)]
        if key:
            keys += [*(one.key for one in self._bucket.below(f"{APPENDED}/{key}")), key]
        self._claims.check()
        if not key:
            self._claims.forget()
        for start in range(0, len(keys), DELETED_AT_ONCE):
            self._claims.check()
            self._bucket.delete(keys[start : start + DELETED_AT_ONCE])

    def read_all(self, key: str) -> dict[str, bytes]:
        """Return the objects directly below a folder."""
        return self._asked.get("read_all", key, self._read_all)

    def _read_all(self, key: str) -> dict[str, bytes]:
        return self._reads.read_all(key)

    def sizes(self, keys: Collection[str]) -> dict[str, int]:
        """Return the bytes of those of some objects that are there.

        A listing that was begun before what names the objects was read may lack those that were put
        meanwhile: they are looked at.
        """
        above = map(str, PurePosixPath(next(iter(keys), "")).parents)
        folder = next((one for one in above if self._asked.knows("sizes", one)), None)
        if folder is None or not all(key.startswith(f"{folder}/") for key in keys):
            return self._reads.sizes(keys)
        heads = {one.key: one for one in self._asked.get("sizes", folder, self._below)}
        rest = [key for key in keys if key not in heads]
        if rest:
            heads |= {one.key: one for one in self._reads.heads(rest)}
        return self._reads.noted(keys, heads)

    def _below(self, key: str) -> Sequence[Head]:
        return [*self._bucket.below(key)]

    def tag(self, key: str) -> str | None:
        """Return an object's tag without its quotes: of S3, the MD5 of what came in one piece."""
        head = self._bucket.find(key)
        return None if head is None or head.tag is None else head.tag.strip('"')

    def ranges(self, key: str, starts: Sequence[int], lengths: Sequence[int]) -> Sequence[bytes]:
        """Return parts of an object, from the cache where they are there."""
        return self._reads.ranges(key, starts, lengths)

    def local_path(self, key: str) -> Path:
        """Return a copy of an object on this machine."""
        return self._asked.get("local_path", key, self._local_path)

    def _local_path(self, key: str) -> Path:
        if grows(key):
            return self._reads.copy_of(key, self._read(key))
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


def open_url(where: str, heads: Iterable[Head] = ()) -> ObjectBackend:
    """Return the backend of a URL, and of objects that listings have told of."""
    url = where.rstrip("/")
    hasty = Patience(request=LEASE_SECONDS / 6, together=LEASE_SECONDS / 3)
    backend = ObjectBackend(open_bucket(url), ObjectClaims(open_bucket(url, hasty)))
    backend._reads.cached.note(heads)
    return backend
