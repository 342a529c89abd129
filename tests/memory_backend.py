"""A store without a disk: a backend as an object store would be one, over a dictionary.

Objects appear whole, claims are made by conditional creation, and nothing is renamed, appended to,
or mapped: who needs a file gets a temporary copy. `memory://NAME` opens a store of this process.
"""

from __future__ import annotations

import shutil
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import MemoryStore

from fungistore.store.backend import Bytes, Kind, Listing
from fungistore.store.locks import Claim

PLACES: dict[str, MemoryBackend] = {}


class MemoryClaims:
    """Claims as objects that can be created once."""

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend
        self._moment = threading.Lock()
        self._held: dict[str, Claim] = {}

    @contextmanager
    def moment(self) -> Iterator[None]:
        if not self._backend.is_made:
            raise FileNotFoundError(self._backend.where)
        with self._moment:
            yield

    @contextmanager
    def take(self, claim: Claim) -> Iterator[None]:
        key = f"{claim.thing}.{claim.index}-of-{claim.count}"
        if self._held.setdefault(key, claim) is not claim:
            raise FileExistsError(key)
        try:
            yield
        finally:
            del self._held[key]

    def live(self) -> list[Claim]:
        return list(self._held.values())

    def seen(self) -> list[Claim]:
        return list(self._held.values())


class MemoryBackend:
    """Objects of a store by key."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.claims = MemoryClaims(self)
        self.objects: dict[str, Buffer] = {}
        self.is_made = False
        self._copies = Path(mkdtemp())
        weakref.finalize(self, shutil.rmtree, self._copies, ignore_errors=True)

    def make_room(self) -> bool:
        self.is_made = True
        return not self.objects

    def has(self, key: str) -> bool:
        return key in self.objects

    def size(self, key: str) -> int:
        return len(self.read(key))

    def read(self, key: str) -> bytes:
        if key not in self.objects:
            raise FileNotFoundError(key)
        return self.objects[key].to_bytes()

    def read_all(self, key: str) -> dict[str, bytes]:
        return {name: self.read(f"{key}/{name}") for name in self.list(key).files}

    def sizes(self, keys: Collection[str]) -> dict[str, int]:
        return {key: self.size(key) for key in keys if self.has(key)}

    def once(self) -> AbstractContextManager[None]:
        return nullcontext()

    def soon(self, kind: Kind, *keys: str) -> None:
        pass

    def tag(self, key: str) -> None:
        return None

    def ranges(self, key: str, starts: Sequence[int], lengths: Sequence[int]) -> Sequence[bytes]:
        whole = self.read(key)
        return [whole[start : start + n] for start, n in zip(starts, lengths, strict=True)]

    def list(self, key: str) -> Listing:
        prefix = f"{key}/" if key else ""
        below = [other.removeprefix(prefix) for other in self.objects if other.startswith(prefix)]
        files = {name for name in below if "/" not in name}
        folders = {name.partition("/")[0] for name in below if "/" in name}
        return Listing(tuple(sorted(files)), tuple(sorted(folders)))

    def publish(self, key: str, *pieces: Bytes) -> None:
        self.objects[key] = default_buffer_prototype().buffer.from_bytes(b"".join(pieces))

    def publish_all(self, objects: Mapping[str, Sequence[Bytes]]) -> None:
        for key, pieces in objects.items():
            self.publish(key, *pieces)

    def publish_file(self, key: str, write: Callable[[Path], None]) -> None:
        with self.scratch() as path:
            write(path)
            self.publish(key, path.read_bytes())

    def append(self, key: str, lines: bytes) -> None:
        before = self.read(key) if self.has(key) else b""
        cut_short = b"\n" if before and not before.endswith(b"\n") else b""
        self.publish(key, before, cut_short, lines)

    def remove(self, key: str) -> None:
        prefix = f"{key}/" if key else ""
        for other in list(self.objects):
            if other == key or other.startswith(prefix):
                del self.objects[other]
        self.is_made = bool(key)

    def local_path(self, key: str) -> Path:
        path = Path(self._copies, key.replace("/", "_"))
        path.write_bytes(self.read(key))
        return path

    def directory(self, key: str = "") -> None:
        return None

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        with TemporaryDirectory() as folder:
            yield Path(folder, "scratch")

    def zarr(self) -> MemoryStore:
        return MemoryStore(self.objects, read_only=True)

    def make_folder(self, key: str) -> None:
        pass

    def settle(self) -> None:
        pass

    def leftovers(self, key: str = "") -> Iterator[str]:
        return iter(())

    def is_own(self, key: str) -> bool:
        return True

    def free_bytes(self) -> None:
        return None


def open_url(where: str) -> MemoryBackend:
    """Return the store of that name, one for the whole process."""
    return PLACES.setdefault(where, MemoryBackend(where))
