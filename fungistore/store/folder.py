"""A folder of a store: a backend, and the key that everything in it begins with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fungistore.names import is_foreign
from fungistore.store.backend import Backend, Bytes, Kind, Listing
from fungistore.store.durable import file_digest


@dataclass(frozen=True)
class Folder:
    """Some objects of a store, by their name in the folder.

    Attributes:
        backend: where the store is.
        key: of the folder; "" is the whole store.
    """

    backend: Backend
    key: str = ""

    @property
    def name(self) -> str:
        """The last part of its key."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> Folder:
        """The folder that it is in."""
        return Folder(self.backend, self.key.rpartition("/")[0])

    def at(self, *names: str) -> Folder:
        """Return a folder below it."""
        return Folder(self.backend, "/".join(filter(None, (self.key, *names))))

    def key_of(self, name: str) -> str:
        """Return the key of an object in it."""
        return self.at(name).key

    def where(self, name: str = "") -> str:
        """Return the place of the folder, or of an object in it, for messages."""
        return "/".join(filter(None, (self.backend.where, self.key, name)))

    def has(self, name: str) -> bool:
        """Whether there is such an object."""
        return self.backend.has(self.key_of(name))

    def size(self, name: str) -> int:
        """Return the bytes of an object."""
        return self.backend.size(self.key_of(name))

    def read(self, name: str) -> bytes:
        """Return an object's bytes."""
        return self.backend.read(self.key_of(name))

    def read_all(self) -> dict[str, bytes]:
        """Return all objects directly in it by their names, sorted."""
        return self.backend.read_all(self.key)

    def sizes(self, names: Sequence[str]) -> dict[str, int]:
        """Return the bytes of those of some objects in it that are there."""
        found = self.backend.sizes([self.key_of(name) for name in names])
        return {key.removeprefix(f"{self.key}/"): count for key, count in found.items()}

    def soon(self, kind: Kind, *names: str) -> None:
        """Begin what is going to be asked for of the folder, or of objects in it; see `Backend`."""
        self.backend.soon(kind, *(map(self.key_of, names) if names else (self.key,)))

    def list(self, *names: str) -> Listing:
        """Return what is directly in it, or in a folder below it, but no files of others."""
        found = self.backend.list(self.at(*names).key)
        files, folders = (
            tuple(name for name in some if not is_foreign(name))
            for some in (found.files, found.folders)
        )
        return Listing(files, folders)

    def publish(self, name: str, *pieces: Bytes) -> None:
        """Let an object of some bytes appear whole, durably."""
        self.backend.publish(self.key_of(name), *pieces)

    def publish_all(self, objects: Mapping[str, Sequence[Bytes]]) -> None:
        """Publish several objects, by their names in the folder."""
        self.backend.publish_all({self.key_of(name): data for name, data in objects.items()})

    def publish_file(self, name: str, write: Callable[[Path], None]) -> None:
        """Publish what `write` puts at a path of this machine."""
        self.backend.publish_file(self.key_of(name), write)

    def local_path(self, name: str) -> Path:
        """Return where an object can be read as a file of this machine."""
        return self.backend.local_path(self.key_of(name))

    def directory(self) -> Path | None:
        """Return it as a directory of this machine, None where there is none."""
        return self.backend.directory(self.key)

    def digest(self, name: str) -> str:
        """Return 32 hexadecimal digits that identify an object's bytes."""
        return file_digest(self.local_path(name))

    def remove(self, name: str = "") -> None:
        """Remove an object or a folder below it, or all of it, if it is there."""
        self.backend.remove(self.key_of(name))

    def below(self) -> tuple[Folder, ...]:
        """Return what is directly below it as folders: they may be links, or plain files."""
        listing = self.list()
        return tuple(self.at(name) for name in sorted((*listing.files, *listing.folders)))

    def folders(self) -> tuple[Folder, ...]:
        """Return the folders directly below it."""
        return tuple(self.at(name) for name in self.list().folders)
