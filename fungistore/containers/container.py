"""Items inside files that are no plain files: kinds of such files by name, and their open ones.

A plug-in adds a kind as an entry point of the group "fungistore.containers".
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol

from fungistore.errors import ItemError
from fungistore.registry import Registry

CONTAINERS = Registry(
    "container",
    "fungistore.containers",
    {
        "parquet": "fungistore.containers.arrow:open_parquet",
        "arrow": "fungistore.containers.arrow:open_stream",
        "npz": "fungistore.containers.arrays:open_npz",
        "idx": "fungistore.containers.arrays:open_idx",
        "hdf5": "fungistore.containers.hdf5:open_hdf5",
        "cifar": "fungistore.containers.cifar:open_cifar",
        "dataset": "fungistore.containers.live:open_dataset",
    },
)
MOST_OPEN = 8  # files that a process keeps open, the longest unused one is closed


class Container(Protocol):
    """An open file of many items; one thread at a time asks it."""

    def read(self, key: str) -> bytes:
        """Return the bytes of one item, as the item's modality decodes them.

        Raises:
            ItemError: there is no such item.
            Exception: any other: the file is damaged.
        """

    def close(self) -> None:
        """Close the file."""


Opener = Callable[[str], Container]


@dataclass
class _Open:
    container: Container
    lock: Lock = field(default_factory=Lock)


class _OpenFiles:
    """The containers that this process has open, by kind, path, size and time of the file."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[object, ...], _Open] = OrderedDict()
        self._lock = Lock()

    def get(self, kind: str, path: str, stamp: tuple[int, ...]) -> _Open:
        key = (kind, path, *stamp)
        with self._lock:
            found = self._open.get(key)
            if found is None:
                opener: Opener = CONTAINERS[kind]
                found = self._open[key] = _Open(opener(path))
            self._open.move_to_end(key)
            while len(self._open) > MOST_OPEN:
                _, oldest = self._open.popitem(last=False)
                with oldest.lock:
                    oldest.container.close()
        return found


_FILES = _OpenFiles()


def read_contained(kind: str, path: str, key: str, size: int) -> bytes:
    """Return the bytes of an item in a file; safe to call from many threads.

    Args:
        kind: of the file, a name in CONTAINERS.
        path: of the file.
        key: of the item in it.
        size: bytes that the file had when it was listed; 0 where it is no file of the disk.

    Raises:
        ItemError: there is no such item, or the file is another one than was listed.
        Exception: whatever a damaged file makes its library raise.
    """
    if kind not in CONTAINERS:
        raise ItemError(f"nothing here reads a file of the kind {kind!r}")
    stamp: tuple[int, ...] = ()
    if size:
        info = os.stat(path)
        if info.st_size != size:
            raise ItemError(
                f"the file has {info.st_size} bytes, and had {size} when it was listed: "
                "list it anew with fungi extract"
            )
        stamp = (info.st_size, info.st_mtime_ns)
    for _ in range(2):
        opened = _FILES.get(kind, path, stamp)
        with opened.lock:
            try:
                return opened.container.read(key)
            except ValueError as error:  # closed by another thread, which needed the room
                if "closed" not in str(error):
                    raise
    raise ItemError("too many files are read at once")
