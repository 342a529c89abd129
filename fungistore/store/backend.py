"""Where the bytes of a store are: publish, list, claim and read, behind one small interface.

A key is "/"-separated text below the store, such as "commits/vit/embeddings/00000003.json". What
the interface promises is what an object store can keep as well as a disk: objects appear whole or
not at all, nothing is renamed, folders exist by what is in them, and only `append` adds to what is
there. A missing object is a FileNotFoundError, and whatever else goes wrong an OSError.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from zarr.abc.store import Store as ZarrStore

from fungistore.registry import Registry
from fungistore.store.locks import Claims

OBJECTS = "fungistore.store.objects:open_url"
BACKENDS = Registry(
    "kind of store",
    "fungistore.backends",
    {
        "file": "fungistore.store.local:open_url",
        **dict.fromkeys(("s3", "gs", "az", "abfs", "memory"), OBJECTS),
    },
)
SCHEME = "://"
Bytes = bytes | memoryview
Kind = Literal["read", "list", "read_all", "sizes", "local_path"]


@dataclass(frozen=True)
class Listing:
    """The names directly below a folder, sorted; unfinished files are not among them."""

    files: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


@runtime_checkable
class Backend(Protocol):
    """The place of one store."""

    @property
    def where(self) -> str:
        """The place, as messages and commands name it."""

    @property
    def claims(self) -> Claims:
        """Who writes what in it."""

    def make_room(self) -> bool:
        """Make the place for a new store; False where something else is."""

    def has(self, key: str) -> bool:
        """Whether there is such an object."""

    def size(self, key: str) -> int:
        """Return the bytes of an object."""

    def read(self, key: str) -> bytes:
        """Return an object's bytes."""

    def read_all(self, key: str) -> dict[str, bytes]:
        """Return all objects directly below a folder by their names, sorted.

        Where each costs a request, many come with one; hidden files may be left out.
        """

    def sizes(self, keys: Collection[str]) -> dict[str, int]:
        """Return the bytes of those of some objects, of one folder, that are there."""

    def once(self) -> AbstractContextManager[None]:
        """Let this thread read what it asks for within once, as it was then; nothing on a disk.

        For a moment in which nothing is written, such as opening what is there.
        """

    def soon(self, kind: Kind, *keys: str) -> None:
        """Begin what `kind`, a method, is going to be asked for within `once`; nothing on a disk.

        `sizes` is asked for objects of a folder, which is the key.
        """

    def tag(self, key: str) -> str | None:
        """Return what the server tells of an object's bytes without reading them, often their MD5.

        None where nothing is told, as of files.
        """

    def ranges(self, key: str, starts: Sequence[int], lengths: Sequence[int]) -> Sequence[bytes]:
        """Return parts of an object."""

    def list(self, key: str) -> Listing:
        """Return the names directly below a folder; none where there is no such folder."""

    def publish(self, key: str, *pieces: Bytes) -> None:
        """Let an object of some bytes appear whole, in the place of what was there.

        It survives whatever happens once this has returned.
        """

    def publish_all(self, objects: Mapping[str, Sequence[Bytes]]) -> None:
        """Publish several objects, each given in pieces by its key.

        Each appears whole, in any order; all of them survive whatever happens once this has
        returned. Where that takes a disk's flush, it takes few of them for all.
        """

    def publish_file(self, key: str, write: Callable[[Path], None]) -> None:
        """Publish what a library that writes files, `write`, puts at a path of this machine."""

    def append(self, key: str, lines: bytes) -> None:
        """Add whole lines to an object, made if need be, durably, within a `moment` of the claims.

        A line that a kill cut short is ended first.
        """

    def remove(self, key: str) -> None:
        """Remove an object or everything below a folder, durably, if it is there."""

    def local_path(self, key: str) -> Path:
        """Return where an object can be mapped, or read in pieces, as a file of this machine.

        Raises:
            FileNotFoundError: there is no such object, where that is known without looking inside.
        """

    def directory(self, key: str = "") -> Path | None:
        """Return a folder as a directory of this machine, None where there is none."""

    def scratch(self) -> AbstractContextManager[Path]:
        """Yield the path of a file of this machine for what memory may not hold; it goes again."""

    def zarr(self) -> ZarrStore:
        """Return what zarr reads arrays from; it is never written to."""

    def make_folder(self, key: str) -> None:
        """Let a folder be there, durably, before what is in it; nothing where folders are none."""

    def settle(self) -> None:
        """Flush what other writers, who may have been killed, have published all but durably.

        Who is going to rely on what is there calls it; nothing where whatever is seen is durable.
        """

    def leftovers(self, key: str = "") -> Iterator[str]:
        """Yield the keys of what interrupted writes left below a folder."""

    def is_own(self, key: str) -> bool:
        """Whether an object lies in the store, not elsewhere behind a link."""

    def free_bytes(self) -> int | None:
        """Return how many bytes can still be written, None where there is no limit."""


StorePlace = str | Path | Backend


def open_backend(where: StorePlace) -> Backend:
    """Return the place of a store: a directory, a URL such as "s3://bucket/x.fungi", or itself.

    Raises:
        UsageError: no backend serves such a URL.
    """
    if isinstance(where, Backend):
        return where
    scheme, separator, _ = str(where).partition(SCHEME)
    name = scheme if separator and isinstance(where, str) else "file"
    backend: Backend = BACKENDS.choose(name, where)(where)
    return backend
