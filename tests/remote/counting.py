"""A bucket in memory that counts what is asked of it, and can break."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from obstore.store import MemoryStore

from fungistore.remote.bucket import Bucket
from fungistore.remote.heads import Head
from fungistore.store.object_claims import ObjectClaims
from fungistore.store.objects import ObjectBackend


class CountingBucket(Bucket):
    """Counts requests by kind; `before` is told each, and may raise."""

    def __init__(self) -> None:
        super().__init__(f"s3://counted/{uuid.uuid4().hex}", MemoryStore())
        self.asked: Counter[str] = Counter()
        self.before: Callable[[str, str], None] = lambda kind, key: None
        self._count = threading.Lock()

    def _note(self, kind: str, key: str) -> None:
        with self._count:
            self.asked[kind] += 1
        self.before(kind, key)

    def head(self, key: str) -> Head:
        self._note("head", key)
        return super().head(key)

    def get(self, key: str) -> bytes:
        self._note("get", key)
        return super().get(key)

    def read(self, key: str, start: int = 0, length: int | None = None) -> tuple[bytes, Head]:
        self._note("get", key)
        return super().read(key, start, length)

    def put(self, key: str, *pieces: Any, expected: str | None = None) -> str | None:
        self._note("put", key)
        return super().put(key, *pieces, expected=expected)

    def level(self, prefix: str = "") -> tuple[list[Head], list[str]]:
        self._note("list", prefix)
        return super().level(prefix)

    def delete(self, keys: Sequence[str]) -> None:
        self._note("delete", keys[0] if keys else "")
        super().delete(keys)

    def below(self, prefix: str = "") -> Any:
        self._note("list", prefix)
        return super().below(prefix)


def uploaded(root: Path, bucket: Bucket | None = None) -> tuple[ObjectBackend, CountingBucket]:
    """Return a backend, and its bucket, with the objects of a store's directory."""
    made = CountingBucket() if bucket is None else bucket
    assert isinstance(made, CountingBucket)
    for path in root.rglob("*"):
        if path.is_file() and ".locks" not in path.parts:
            made.put(path.relative_to(root).as_posix(), path.read_bytes())
    made.asked.clear()
    return ObjectBackend(made, ObjectClaims(made)), made


def objects(bucket: Bucket) -> Mapping[str, bytes]:
    """Return all objects but locks."""
    keys = [head.key for head in Bucket.below(bucket) if not head.key.startswith(".locks")]
    return {key: Bucket.get(bucket, key) for key in keys}
