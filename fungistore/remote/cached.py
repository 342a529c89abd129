"""A bucket whose objects are read through a cache of this machine, once they are known by a tag.

Tags come with listings, which a reader of many objects makes anyway; so what is in the cache costs
no request at all. An object that was never listed is asked for anew each time.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fungistore.remote.bucket import THREADS, Bucket, ChangedError, Head
from fungistore.remote.cache import Cache, Cached, Fetch

TRIES = 4  # of an object that is replaced while it is read
_PROCESS = uuid.uuid4().hex  # objects in memory are those of one process


class CachedBucket:
    """Objects of a bucket, from the cache where they are there; for any threads.

    Args:
        bucket: where they are.
        cache: what is kept; None: nothing.
    """

    def __init__(self, bucket: Bucket, cache: Cache | None) -> None:
        self.bucket = bucket
        self._cache = cache
        is_in_memory = bucket.where.startswith("memory:")
        self._url = f"{bucket.where}#{_PROCESS}" if is_in_memory else bucket.where
        self._heads: dict[str, Head] = {}

    def note(self, heads: Iterable[Head]) -> None:
        """Take what a listing has just told of some objects for what they are."""
        self._heads |= {head.key: head for head in heads}

    def forget(self, keys: Iterable[str]) -> None:
        """Forget what was told of some objects, which are about to change."""
        for key in keys:
            self._heads.pop(key, None)

    def get(self, key: str) -> bytes:
        """Return an object's bytes."""
        head = self._heads.get(key)
        if head is None or self._cache is None:
            return self.bucket.get(key)
        return self._read(head, [0], [head.size])[0]

    def get_ranges(self, key: str, starts: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
        """Return several ranges of an object."""
        head = self._heads.get(key)
        if head is None:
            self.note([head := self.bucket.head(key)])
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
                    pairs = list(zip(starts, lengths, strict=True))
                    with ThreadPoolExecutor(min(THREADS, len(pairs))) as pool:
                        return list(pool.map(lambda pair: fetch(*pair), pairs))
                return self._cache.read(self._cached(head), starts, lengths, fetch)
            except ChangedError:
                if turn == TRIES - 1:
                    raise
                self.note([head := self.bucket.head(head.key)])
        raise AssertionError

    def _cached(self, head: Head) -> Cached:
        return Cached(self._url, head.key, tag_of(head), head.size)

    def _fetch(self, head: Head) -> Fetch:
        """Return what reads parts of an object as long as it is the one that was looked at."""

        def fetch(start: int, length: int) -> bytes:
            whole = (start, length) == (0, head.size)
            data, found = self.bucket.read(head.key, start, None if whole else length)
            if tag_of(found) != tag_of(head) or len(data) != length:
                raise ChangedError(17, "the object is another by now", head.key)
            return data

        return fetch


def tag_of(head: Head) -> str:
    """Return what changes with an object's bytes; of a server without tags, size and time."""
    return head.tag or f"{head.size} {head.modified.timestamp()}"
