"""Objects are moved from one place to another, and what has arrived is compared with what was sent.

An object store tells the MD5 of what it has received, for objects that came in one piece; from
others, and from a disk, the bytes are read back. Nothing is taken for copied on the word of its
size alone.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import google_crc32c

from fungistore.errors import StoreError
from fungistore.store.backend import Backend
from fungistore.store.durable import file_digest

MD5 = re.compile(r"[0-9a-f]{32}")
LARGE_BYTES = 64_000_000  # a file beyond that is not held in memory
THREADS = 16
BY_TAG, BY_READING = "server's MD5", "read back"


class Transfer:
    """Moves objects between two backends.

    Args:
        source: where they are.
        target: where they go.
        is_dry: nothing is written.

    Attributes:
        bytes: that were sent.
        files: objects that were sent beside chunks.
        verified: how many objects were compared in which way.
    """

    def __init__(self, source: Backend, target: Backend, *, is_dry: bool = False) -> None:
        self.source = source
        self.target = target
        self.is_dry = is_dry
        self.bytes = 0
        self.files = 0
        self.verified: Counter[str] = Counter()

    def read(self, keys: list[str]) -> dict[str, bytes]:
        """Return objects of the source by their keys, many at once."""
        if self.source.directory() is not None:
            return {key: self.source.read(key) for key in keys}
        with ThreadPoolExecutor(min(THREADS, max(1, len(keys)))) as pool:
            return dict(zip(keys, pool.map(self.source.read, keys), strict=True))

    def send(self, objects: Mapping[str, bytes]) -> None:
        """Publish objects, and compare what has arrived.

        Raises:
            StoreError: one is not what was sent.
        """
        if self.is_dry or not objects:
            return
        self.target.publish_all({key: [data] for key, data in objects.items()})
        with ThreadPoolExecutor(min(THREADS, len(objects))) as pool:
            for how in pool.map(self._compare, objects, objects.values()):
                self.verified[how] += 1
        self.bytes += sum(map(len, objects.values()))

    def file(self, key: str) -> bool:
        """Send an object that is no chunk, unless the same is there; whether it was sent."""
        size = self.source.size(key)
        if self._is_there(key, size):
            return False
        self.files += 1
        if self.is_dry:
            return True
        if size <= LARGE_BYTES:
            self.send({key: self.source.read(key)})
            return True
        path = self.source.local_path(key)
        self.target.publish_file(key, partial(shutil.copyfile, path))
        self.bytes += size
        self.verified[BY_READING] += 1
        if file_digest(self.target.local_path(key)) != file_digest(path):
            raise _other(self.target, key)
        return True

    def _is_there(self, key: str, size: int) -> bool:
        if not self.target.has(key) or self.target.size(key) != size:
            return False
        if size > LARGE_BYTES:
            mine, theirs = self.source.local_path(key), self.target.local_path(key)
            return file_digest(mine) == file_digest(theirs)
        return self.source.read(key) == self.target.read(key)

    def _compare(self, key: str, data: bytes) -> str:
        tag = self.target.tag(key)
        if tag and MD5.fullmatch(tag) and tag == hashlib.md5(data).hexdigest():
            return BY_TAG
        stored = self.target.read(key)
        if google_crc32c.extend(0, stored) != google_crc32c.extend(0, data):
            raise _other(self.target, key)
        return BY_READING


def _other(target: Backend, key: str) -> StoreError:
    return StoreError(
        "an object did not arrive as it was sent",
        where=f"{target.where}/{key}",
        expected="the bytes of the source",
        hint="run the same command again: it continues",
    )
