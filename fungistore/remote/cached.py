"""A bucket whose objects are read through a cache of this machine, once they are known by a tag.

Tags come with listings, which a reader of many objects makes anyway; so what is in the cache costs
no request at all. An object that was never listed is asked for anew each time.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import add
from pathlib import Path

from fungistore.remote.bucket import THREADS, Bucket, ChangedError, open_bucket
from fungistore.remote.cache import Cache, Cached, Fetch
from fungistore.remote.cache_options import object_cache
from fungistore.remote.heads import Head, tag_of

TRIES = 4  # of an object that is replaced while it is read


class CachedBucket:
    """Objects of a bucket, from the cache where they are there; for any threads.

    Args:
        bucket: where they are.
        cache: what is kept; None: nothing.
    """

    def __init__(self, bucket: Bucket, cache: Cache | None) -> None:
        self.bucket = bucket
        is_in_memory = bucket.where.startswith("memory:")  # where tags are numbers from 0 on
        self._cache = None if is_in_memory else cache
        self._heads: dict[str, Head] = {}
        self._own: set[str] = set()

    def __reduce__(self) -> tuple[object, ...]:
        return open_cached, self.known  # in another process; no secret travels

    @property
    def known(self) -> tuple[str, tuple[Head, ...]]:
        """The URL, and what listings have told of its objects."""
        return self.bucket.where, tuple(self._heads.values())

    def note(self, heads: Iterable[Head]) -> None:
        """Take what a listing has just told of some objects for what they are."""
        self._heads |= {head.key: head for head in heads if head.key not in self._own}

    def forget(self, key: str) -> None:
        """Ask for an object anew from now on, since this process changes it.

        A listing that was under way meanwhile may still tell of the one before.
        """
        self._own.add(key)
        self._heads.pop(key, None)

    def head(self, key: str) -> Head:
        """Look at an object, unless a listing has told of it."""
        return self._heads.get(key) or self.bucket.head(key)

    def note_text(self, key: str, data: bytes) -> None:
        """Keep something that was made of objects in the cache."""
        if self._cache is not None:
            self._cache.note(self._made(key), data)

    def noted_text(self, key: str) -> bytes | None:
        """Return what was kept so, if it is there."""
        return None if self._cache is None else self._cache.noted(self._made(key))

    def get(self, key: str) -> bytes:
        """Return an object's bytes."""
        head = self._heads.get(key)
        if head is None or self._cache is None:
            return self.bucket.get(key)
        return self._read(head, [0], [head.size])[0]

    def get_ranges(self, key: str, starts: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
        """Return several ranges of an object.

        Raises:
            ValueError: it ends before one of them does.
        """
        last = max(map(add, starts, lengths), default=0)
        head = self.head(key)
        if head.size < last:  # of an object that was replaced since a listing told of it, perhaps
            head = self.bucket.head(key)
        self.note([head])
        if head.size < last:
            raise ValueError(f"{head.size} bytes, not {last} or more")
        return self._read(head, starts, lengths)

    def path(self, key: str) -> Path | None:
        """Return an object as a file of the cache, which stays for a minute; None without one."""
        if self._cache is None:
            return None
        head = self.bucket.head(key)
        return self._cache.path(self._cached(head), self._fetch(head))

    def _read(self, head: Head, starts: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
        for turn in range(TRIES):
            fetch = self._fetch(head)
            try:
                if self._cache is None:
                    with ThreadPoolExecutor(min(THREADS, max(1, len(starts)))) as pool:
                        return list(pool.map(fetch, starts, lengths))
                return self._cache.read(self._cached(head), starts, lengths, fetch)
            except ChangedError:
                if turn == TRIES - 1:
                    raise
                self.note([head := self.bucket.head(head.key)])
        raise AssertionError

    def _made(self, key: str) -> Cached:
        return Cached(self.bucket.where, key, "made here", 0)

    def _cached(self, head: Head) -> Cached:
        return Cached(self.bucket.where, head.key, tag_of(head), head.size)

    def _fetch(self, head: Head) -> Fetch:
        """Return what reads parts of an object as long as it is the one that was looked at."""

        def fetch(start: int, length: int) -> bytes:
            whole = (start, length) == (0, head.size)
            data, found = self.bucket.read(head.key, start, None if whole else length)
            if tag_of(found) != tag_of(head) or len(data) != length:
                raise ChangedError(errno.EEXIST, "the object is another by now", head.key)
            return data

        return fetch


def open_cached(url: str, heads: Iterable[Head] = ()) -> CachedBucket:
    """Return the bucket of a URL, read through the cache that the variables ask for.

    Args:
        url: of what all keys are below.
        heads: what listings have told of its objects.
    """
    cached = CachedBucket(open_bucket(url), object_cache())
    cached.note(heads)
    return cached
