"""Objects of a bucket, or parts of them, kept in a directory: what was read once is read there.

An object is a sparse file of its size and beside it, for each page of it that is there, the page's
CRC-32C. Several processes fill and read one directory without locks: whatever they write into a
page is the same, since a file's name is a digest of URL, key and tag, and a page whose bytes and
CRC-32C do not go together, for whatever reason, is fetched again. The files that nobody used for
longest are removed, whole, by one process at a time.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from fungistore.remote.cache_files import (
    DATA,
    PAGES,
    files_of,
    on_disk,
    open_file,
    time_there,
    touch,
    write_at,
)

PAGE_BYTES = 1 << 16  # a row of patch tokens is a few of them, a request for one costs a round trip
THERE = 1 << 32  # in a page's entry, beside its CRC-32C: no page is there by a file's zeros
MOST_BETWEEN = 4  # pages that are fetched although they are not wanted, where two others are near
REQUESTS = 16  # under way at once for one object
LOOKED_AT_EACH = 20  # the directory is measured when so many parts of its size were added
KEPT_AFTER = 0.9  # of the size, when more than that was there
WINDOW_BYTES = 64 << 20  # of an object that is written to one file
HELD_SECONDS = 60  # a file whose path was given away stays so long, for whoever opens it
WHOLE, LOCK = ".whole", "lock"
LOGGER = "fungistore"

Fetch = Callable[[int, int], bytes]  # (start, length) to these bytes of an object
Entries = NDArray[np.uint64]


@dataclass(frozen=True)
class Cached:
    """One object, as it is known by.

    Attributes:
        url: of its bucket.
        key: below it.
        tag: changes with its bytes.
        size: of them.
    """

    url: str
    key: str
    tag: str
    size: int

    @property
    def digest(self) -> str:
        """A name for files."""
        text = "\0".join((self.url, self.key, self.tag, str(self.size)))
        return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


class Cache:
    """A directory with parts of objects, up to a number of bytes.

    A directory that cannot be written to, or a full disk, makes reading slower and nothing else.

    Args:
        folder: the directory, which is made when it is needed.
        most_bytes: of it, roughly: each process may add a twentieth before it looks.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder = folder
        self.most_bytes = most_bytes
        self._added = most_bytes  # so that the first addition looks
        self._lock = threading.Lock()
        self._is_told = False

    def read(
        self, what: Cached, starts: Sequence[int], lengths: Sequence[int], fetch: Fetch
    ) -> list[bytes]:
        """Return ranges of an object; pages that are not there are fetched, near ones together."""
        ranges = [(start, start + count) for start, count in zip(starts, lengths, strict=True)]
        with self._opened(what) as files:
            pages = _Pages(what, files, fetch)
            try:
                return pages.read(ranges)
            finally:
                self._note(pages)

    def whole(self, what: Cached, fetch: Fetch) -> bytes:
        """Return an object."""
        return self.read(what, [0], [what.size], fetch)[0]

    def put(self, what: Cached, data: bytes) -> None:
        """Keep an object that was fetched."""
        with self._opened(what) as files:
            pages = _Pages(what, files, _nothing)
            pages.keep(0, data)
            self._note(pages)

    def path(self, what: Cached, fetch: Fetch) -> Path | None:
        """Return a file with an object's bytes, which stays for a minute; None where none can be.

        The bytes are compared with their CRC-32C first.
        """
        path = self._path(what, WHOLE)
        try:
            if not self._is_whole(path, what, fetch):
                self._appear(path, self._windows(what, fetch))
            touch(path, HELD_SECONDS)
        except _FetchError as error:
            raise error.cause from None
        except OSError as error:
            self._tell(error)
            return None
        return path

    def _windows(self, what: Cached, fetch: Fetch) -> Iterator[bytes]:
        """Yield an object, some of it at once: an index may be larger than memory.

        Raises:
            _FetchError: it cannot be fetched.
        """

        def fetched(start: int, length: int) -> bytes:
            try:
                return fetch(start, length)
            except OSError as error:
                raise _FetchError(error) from None

        for start in range(0, what.size, WINDOW_BYTES):
            length = min(WINDOW_BYTES, what.size - start)
            yield self.read(what, [start], [length], fetched)[0]

    def _is_whole(self, path: Path, what: Cached, fetch: Fetch) -> bool:
        """Whether a file has an object's bytes."""
        try:
            if path.stat().st_size != what.size:
                return False
            with path.open("rb") as file:
                return all(file.read(len(one)) == one for one in self._windows(what, fetch))
        except FileNotFoundError:
            return False

    def _appear(self, path: Path, pieces: Iterable[bytes]) -> None:
        """Let a file appear whole; where it cannot, nothing of it is left."""
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.writelines(pieces)
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._count(on_disk(path.stat().st_size))

    def note(self, what: Cached, data: bytes) -> None:
        """Keep something that was made of objects, whole, under a tag of its own and size 0."""
        path = self._path(what, WHOLE)
        try:
            self._appear(path, [data])
        except OSError as error:
            self._tell(error)

    def noted(self, what: Cached) -> bytes | None:
        """Return what was noted, if it is there; who made it tells whether it is whole."""
        path = self._path(what, WHOLE)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        touch(path)
        return data

    def _path(self, what: Cached, suffix: str) -> Path:
        return self.folder / what.digest[:2] / f"{what.digest}{suffix}"

    @contextmanager
    def _opened(self, what: Cached) -> Iterator[tuple[int, int] | None]:
        """Yield the descriptors of an object's data and entries; None where there can be none."""
        opened: list[int] = []
        try:
            try:
                for suffix in (DATA, PAGES):
                    path = self._path(what, suffix)
                    opened.append(open_file(path))
                    touch(path)
            except OSError as error:
                self._tell(error)
            yield (opened[0], opened[1]) if len(opened) == 2 else None
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def _note(self, pages: _Pages) -> None:
        if pages.error is not None:
            self._tell(pages.error)
        if pages.kept:
            self._count(pages.kept)

    def _count(self, added: int) -> None:
        """Note that bytes were added, and look now and then whether they are too many."""
        with self._lock:
            self._added += added
            if self._added * LOOKED_AT_EACH < self.most_bytes:
                return
            self._added = 0
        with suppress(OSError):
            self.evict()

    def evict(self) -> None:
        """Remove what was not used for longest, until the rest has room; one process at a time."""
        with (self.folder / LOCK).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # another process is at it
            found = sorted(files_of(self.folder))
            total = sum(count for _, count, _ in found)
            if total <= self.most_bytes:
                return
            now = time_there(file.fileno())
            for used, count, path in found:
                if total <= KEPT_AFTER * self.most_bytes or used > now:
                    return
                for suffix in (DATA, PAGES) if path.suffix == DATA else (path.suffix,):
                    path.with_suffix(suffix).unlink(missing_ok=True)
                total -= count

    def bytes(self) -> int:
        """Return how many bytes of the disk it takes."""
        return sum(count for _, count, _ in files_of(self.folder))

    def _tell(self, error: OSError) -> None:
        if not self._is_told:
            self._is_told = True
            said = f"nothing is kept in {self.folder} ({error.strerror}): reading is slower"
            logging.getLogger(LOGGER).warning("%s; --cache-dir chooses another place", said)


class _Pages:
    """The pages of one object, in open files.

    Attributes:
        kept: bytes that were written.
        error: why some could not be.
    """

    def __init__(self, what: Cached, files: tuple[int, int] | None, fetch: Fetch) -> None:
        self._size = what.size
        self._files = files
        self._fetch = fetch
        self.kept = 0
        self.error: OSError | None = None

    def read(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return some ranges [start, stop)."""
        wanted = np.zeros(-(-self._size // PAGE_BYTES), bool)
        for start, stop in ranges:
            wanted[start // PAGE_BYTES : -(-stop // PAGE_BYTES)] = True
        held: dict[int, bytes | memoryview] = {}
        for first, last in _stretches(np.flatnonzero(wanted)):
            self._from_disk(first, last, held)
        missing = np.array([page for page in np.flatnonzero(wanted) if page not in held], np.int64)
        spans = list(_stretches(missing, MOST_BETWEEN))
        for (first, _), data in zip(spans, self._fetched(spans), strict=True):
            self.keep(first, data)
            _divide(first, data, held)
        return [self._cut(start, stop, held) for start, stop in ranges]

    def _fetched(self, spans: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """Yield stretches of pages, many requests under way at once."""
        places = [(first * PAGE_BYTES, min(last * PAGE_BYTES, self._size)) for first, last in spans]
        if len(places) < 2:
            yield from (self._fetch(start, stop - start) for start, stop in places)
            return
        with ThreadPoolExecutor(min(REQUESTS, len(places)), "fungi-fetch") as pool:
            yield from pool.map(lambda place: self._fetch(place[0], place[1] - place[0]), places)

    def keep(self, first: int, data: bytes) -> None:
        """Write pages from the `first` on, then their entries."""
        if self._files is None or not data:
            return
        pieces = [memoryview(data)[at : at + PAGE_BYTES] for at in range(0, len(data), PAGE_BYTES)]
        entries = np.array([THERE | _crc(piece) for piece in pieces], "<u8")
        try:
            write_at(self._files[0], data, first * PAGE_BYTES)
            write_at(self._files[1], entries.tobytes(), first * entries.itemsize)
        except OSError as error:  # such as of a full disk
            self.error, self._files = error, None
            return
        self.kept += on_disk(len(data)) + on_disk(entries.nbytes)

    def _from_disk(self, first: int, last: int, held: dict[int, bytes | memoryview]) -> None:
        """Add those of the pages [first, last) that are there to those that are held."""
        if self._files is None:
            return
        raw = os.pread(self._files[1], (last - first) * 8, first * 8)
        entries = np.zeros(last - first, "<u8")
        entries[: len(raw) // 8] = np.frombuffer(raw[: len(raw) // 8 * 8], "<u8")
        there = first + np.flatnonzero(entries)
        for begin, end in _stretches(there):
            start, stop = begin * PAGE_BYTES, min(end * PAGE_BYTES, self._size)
            _divide(begin, os.pread(self._files[0], stop - start, start), held)
        for page in there.tolist():
            if THERE | _crc(held.get(page, b"")) != entries[page - first]:
                held.pop(page, None)

    def _cut(self, start: int, stop: int, held: dict[int, bytes | memoryview]) -> bytes:
        first, last = start // PAGE_BYTES, -(-stop // PAGE_BYTES)
        data = b"".join(held[page] for page in range(first, last))
        begin = start - first * PAGE_BYTES
        return (
            data if (begin, len(data)) == (0, stop - start) else data[begin : begin + stop - start]
        )


def _divide(first: int, data: bytes, held: dict[int, bytes | memoryview]) -> None:
    view = memoryview(data)
    for number, at in enumerate(range(0, len(data), PAGE_BYTES)):
        held[first + number] = view[at : at + PAGE_BYTES]


def _stretches(numbers: NDArray[np.int64], between: int = 0) -> Iterator[tuple[int, int]]:
    """Yield stretches [first, last) of ascending numbers, with so many others `between` two."""
    for part in np.split(numbers, np.flatnonzero(np.diff(numbers) > 1 + between) + 1):
        if len(part):
            yield int(part[0]), int(part[-1]) + 1


def _crc(piece: bytes | memoryview) -> int:
    return int(google_crc32c.extend(0, np.frombuffer(piece, np.uint8)))


def _nothing(start: int, length: int) -> bytes:
    raise AssertionError("nothing is fetched")


class _FetchError(Exception):
    """What the server is the cause of, not the disk."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause
