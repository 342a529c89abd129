"""Lines that are added to an object of a bucket, where nothing can be appended to.

What is added is put beside the object, one small object each time, in a folder that is named after
the state of the object that it continues. Whoever reads puts them together. An object that is
replaced is of another state, so what continued the one before is nothing from that moment on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from fungistore.remote.bucket import Bucket
from fungistore.remote.heads import Head
from fungistore.store.backend import Bytes

APPENDED = ".appended"
LINES = ".jsonl"  # the objects that grow so; others, which are few, are put anew
READS = 30

Put = Callable[..., None]


def grows(key: str) -> bool:
    """Whether an object is one of lines."""
    return key.endswith(LINES)


class ObjectLines:
    """The objects of lines in a bucket.

    Args:
        bucket: where they are.
        put: the writer's way to put an object: key, pieces.
    """

    def __init__(self, bucket: Bucket, put: Put) -> None:
        self._bucket = bucket
        self._put = put

    def read(self, key: str) -> bytes:
        """Return all lines of an object."""
        for _ in range(READS):
            head, data = self._bucket.fetch(key)
            try:
                more = list(self._bucket.get_all(self._more(head)))
            except FileNotFoundError:  # it was replaced meanwhile, by all of them
                continue
            if self._is_still(head):
                return b"".join(_ended(piece) for piece in (data, *more)) if more else data
        return data

    def append(self, key: str, lines: bytes) -> None:
        """Add lines to an object; within a `moment` of the claims."""
        head = self._bucket.find(key)
        if head is None:
            self._put(key, lines)
            return
        last = self._more(head)
        number = int(last[-1].rpartition("/")[2]) + 1 if last else 0
        self._put(f"{_folder(head)}/{number:08d}", lines)

    def publish(self, key: str, *pieces: Bytes) -> None:
        """Replace an object and what continues it; within a `moment` of the claims.

        They are put together first: where the new bytes are those of the object as it was, its
        state would be the same again, and a kill could leave what continued it.
        """
        head = self._bucket.find(key)
        more = self._more(head) if head else []
        if more:
            self._put(key, self.read(key))
            self._bucket.delete(more)
        self._put(key, *pieces)

    def leftovers(self) -> Iterator[str]:
        """Yield what continues objects that are others by now."""
        for one in self._bucket.below(APPENDED):
            folder = one.key.rpartition("/")[0]
            head = self._bucket.find(folder.removeprefix(f"{APPENDED}/").rpartition("/")[0])
            if head is None or _folder(head) != folder:
                yield one.key

    def _more(self, head: Head) -> list[str]:
        """Return the keys of what continues an object, in order."""
        return sorted(one.key for one in self._bucket.below(_folder(head)))

    def _is_still(self, head: Head) -> bool:
        now = self._bucket.find(head.key)
        return now is not None and now.state == head.state


def _folder(head: Head) -> str:
    state = hashlib.blake2b(str(head.state).encode(), digest_size=8).hexdigest()
    return f"{APPENDED}/{head.key}/{state}"


def _ended(lines: bytes) -> bytes:
    return lines if not lines or lines.endswith(b"\n") else lines + b"\n"
