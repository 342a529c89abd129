"""Objects at URLs as files are read: looked at, whole, in parts, and as streams that seek.

Every function takes a URL alone, whose bucket is opened once a process.
"""

from __future__ import annotations

import errno
import io
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import BinaryIO
from weakref import finalize

from fungistore.remote.bucket import Bucket, ChangedError, open_bucket
from fungistore.remote.heads import UNKNOWN_TIME, Head, is_other
from fungistore.remote.places import is_web, split_url
from fungistore.remote.urls import is_url

ASKED_AT_ONCE = 64  # requests for heads under way
# A request takes as long as some 2 MB on a fast line: what is nearer is read on the way.
NEAR = 1 << 21
TRIES = 3  # of an object that is replaced while it is copied
REPLACED = "the object was replaced while it was read"
SMALL_WINDOW, LARGE_WINDOW = 1 << 16, 1 << 23  # bytes of one request


def place_of(url: str) -> tuple[Bucket, str]:
    """Return the bucket of a URL, and the key in it.

    Raises:
        ValueError: the URL is none of an object.
    """
    bucket, key = split_url(url)
    return open_bucket(bucket), key


def look(url: str) -> Head:
    """Return what is known of an object.

    Raises:
        OSError, ValueError: it is not there, or cannot be looked at.
    """
    bucket, key = place_of(url)
    return bucket.head(key)


def time_of(head: Head) -> float | None:
    """Return when an object was put, in seconds since the epoch; None where nobody tells."""
    return None if head.modified == UNKNOWN_TIME else head.modified.timestamp()


def is_file(url: str) -> bool:
    """Whether there is an object at a URL.

    Raises:
        OSError: nobody can tell.
    """
    try:
        bucket, key = place_of(url)
    except ValueError:
        return False
    return key != "" and bucket.find(key) is not None


def is_there(url: str) -> bool:
    """Whether an object is at a URL, or any below it.

    A web server tells of no folder: what has no dot in its last name is taken to be one.

    Raises:
        OSError: nobody can tell.
    """
    bucket, key = place_of(url)
    if key and bucket.find(key) is not None:
        return True
    if is_web(url):
        return not url.rpartition("/")[2].count(".")
    return next(bucket.below(key), None) is not None


def read(url: str) -> bytes:
    """Return an object's bytes.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    bucket, key = place_of(url)
    return bucket.get(key)


def read_range(url: str, start: int, length: int) -> bytes:
    """Return bytes of an object, as many as there are.

    Raises:
        OSError, ValueError: they cannot be read.
    """
    bucket, key = place_of(url)
    return bucket.get_range(key, start, length)


def measure_all(urls: Sequence[str]) -> Iterator[tuple[int | None, float | None]]:
    """Yield the size and the time of each object, many asked for at once; None of what is not."""
    with ThreadPoolExecutor(min(ASKED_AT_ONCE, max(1, len(urls)))) as pool:
        yield from pool.map(measure, urls)


def measure(url: str) -> tuple[int | None, float | None]:
    """Return an object's size in bytes and its time, None of one that is not there.

    One that is refused has neither as well: it is a failed input, if it is read.
    """
    try:
        head = look(url)
    except (OSError, ValueError):
        return None, None
    return head.size, time_of(head)


def read_same(url: str, then: Head, start: int, length: int) -> bytes:
    """Return bytes of an object as it was when it was looked at.

    Raises:
        ChangedError: it was replaced since; parts of two objects would be put together.
        OSError, ValueError: they cannot be read.
    """
    if length <= 0:
        return b""
    bucket, key = place_of(url)
    found, now = bucket.read(key, start, length)
    if is_other(now, then, of_web=is_web(url)):
        raise ChangedError(errno.EEXIST, REPLACED, url)
    return found


class RemoteFile(io.RawIOBase):
    """An object as a file that seeks: what is read in order is streamed, the rest hopped over.

    A window of bytes is held. Whoever reads on near its end gets windows that grow, of which the
    next one is under way; whoever goes further off gets a small one there. So the headers of a
    tar file of small members come with the whole of it in large requests, and those of one with
    large members alone; and memory holds three windows at most.

    Args:
        url: of the object.
        is_streamed: it is read from its beginning on; else no byte is read before it is asked for.
    """

    def __init__(self, url: str, *, is_streamed: bool = False) -> None:
        self.url = url
        self.head = look(url)
        self.size = self.head.size
        self._is_streamed = is_streamed
        self._position = 0
        self._start, self._window = 0, b""
        self._step = SMALL_WINDOW
        self._next: tuple[int, int, Future[bytes]] | None = None
        self._pool: ThreadPoolExecutor | None = None

    def readable(self) -> bool:
        """Return that it is."""
        return True

    def seekable(self) -> bool:
        """Return that it is."""
        return True

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place; nothing is read."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes, as many as were asked for and there are."""
        size = -1 if size is None else size
        stop = self.size if size < 0 else min(self.size, self._position + size)
        found = self.at(self._position, max(0, stop - self._position))
        self._position += len(found)
        return found

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer."""
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def at(self, offset: int, size: int) -> bytes:
        """Return bytes from a place, without going there."""
        if size > LARGE_WINDOW:  # as of a row group: in one request, and held nowhere
            return self._fetch(offset, size)
        if not self._holds(offset, size):
            self._move(offset, size)
        return self._window[offset - self._start : offset - self._start + size]

    def _holds(self, offset: int, size: int) -> bool:
        return self._start <= offset and offset + size <= self._start + len(self._window)

    def _move(self, offset: int, size: int) -> None:
        """Let the window have some bytes."""
        end = self._start + len(self._window)
        if self._next is not None and self._next[0] <= offset < sum(self._next[:2]):
            start, _, under_way = self._next
            window = under_way.result()
            held = self._window[offset - self._start :] if offset < end else b""
            self._start, self._window = (offset, held + window) if held else (start, window)
            self._next = None
            if self._holds(offset, size):
                self._read_ahead()
                return
            end = self._start + len(self._window)
        is_on = self._is_streamed and self._start <= offset <= end + NEAR
        self._step = min(LARGE_WINDOW, 2 * self._step) if is_on else SMALL_WINDOW
        held = self._window[offset - self._start :] if is_on and offset < end else b""
        first = offset + len(held)
        length = min(self.size - first, max(self._step, size - len(held)))
        self._start, self._window = offset, held + self._fetch(first, length)
        self._drop_next()
        if is_on:
            self._read_ahead()

    def _read_ahead(self) -> None:
        first = self._start + len(self._window)
        length = min(self.size - first, self._step)
        if self._step < LARGE_WINDOW or length <= 0:
            return
        self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="fungi-ahead")
        self._next = first, length, self._pool.submit(self._fetch, first, length)

    def _fetch(self, start: int, length: int) -> bytes:
        return read_same(self.url, self.head, start, length)

    def _drop_next(self) -> None:
        if self._next is not None:
            self._next[2].cancel()
            self._next = None

    def close(self) -> None:
        """Let the window go."""
        self._drop_next()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._window = b""
        super().close()


def readable(path: str | Path) -> str | Path | BinaryIO | RemoteFile:
    """Return what Arrow reads: a path of the disk itself, of an object a file."""
    return RemoteFile(path) if isinstance(path, str) and is_url(path) else path


def local_copy(path: str | Path) -> str | Path:
    """Return the path of a file of the disk with an object's bytes; of a path, itself.

    It is there for as long as the process.
    """
    if not (isinstance(path, str) and is_url(path)):
        return path
    for turn in range(TRIES):
        try:
            return _copied(path, look(path)).name
        except ChangedError:
            if turn == TRIES - 1:
                raise
    raise AssertionError


class _Copy:
    """A file of the disk that goes when nobody holds it any more."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        file = tempfile.NamedTemporaryFile(prefix="fungi-copy-")  # noqa: SIM115  # closed below
        finalize(self, file.close)
        file.writelines(pieces)
        file.flush()
        self.name = file.name


@cache
def _copied(url: str, head: Head) -> _Copy:
    """Return a copy of the object that was looked at."""
    starts = range(0, head.size, LARGE_WINDOW)
    try:
        pieces = (read_same(url, head, one, min(LARGE_WINDOW, head.size - one)) for one in starts)
        return _Copy(pieces)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return _Copy([read(url)])  # of a server that gives no parts
