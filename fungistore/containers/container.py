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
from fungistore.location import Location, mark_of
from fungistore.registry import Registry
from fungistore.remote.files import look
from fungistore.remote.urls import is_url

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
        "table": "fungistore.sources.table_cells:open_table",
        "lines": "fungistore.sources.table_cells:open_lines",
        "dataset": "fungistore.containers.live:open_dataset",
    },
)
WRITTEN_ANEW = "the file is another one than was listed, list it anew with fungi extract"
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
    is_closed: bool = False

    def close(self) -> None:
        with self.lock:
            self.container.close()
            self.is_closed = True


class _OpenFiles:
    """The containers that this process has open, by kind, path, size and time of the file."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[object, ...], _Open] = OrderedDict()
        self._lock = Lock()

    def get(self, place: Location) -> _Open:
        """Return the open file of an item.

        Raises:
            ItemError: it is another one than was listed.
        """
        stamp: tuple[object, ...] = ()
        if is_url(place.path):  # looked at once: it is asked for by ranges while it is open
            stamp = (place.file_size, place.mark)
        elif place.file_size:
            info = os.stat(place.path)
            stamp = (info.st_size, info.st_mtime_ns, place.file_size, place.mark)
            if info.st_size != place.file_size:
                raise ItemError(f"{WRITTEN_ANEW}: it has {info.st_size} bytes, not {stamp[2]}")
        kind, path = place.container, place.path
        key = (kind, path, *stamp)
        with self._lock:
            found = self._open.get(key)
            if found is None:
                if is_url(path) and (size := look(path).size) != place.file_size:
                    raise ItemError(f"{WRITTEN_ANEW}: it has {size} bytes, not {place.file_size}")
                if place.mark and mark_of(path) != place.mark:
                    raise ItemError(f"{WRITTEN_ANEW}: other bytes are at its ends")
                opener: Opener = CONTAINERS[kind]
                found = self._open[key] = _Open(opener(path))
            self._open.move_to_end(key)
            surplus = len(self._open) - MOST_OPEN
            oldest = [self._open.popitem(last=False)[1] for _ in range(surplus)]
        for one in oldest:  # which may wait for a thread that reads it
            one.close()
        return found


_FILES = _OpenFiles()


def read_contained(place: Location) -> bytes:
    """Return the bytes of an item in a file; safe to call from many threads.

    Raises:
        ItemError: there is no such item, or the file is another one than was listed.
        Exception: whatever a damaged file makes its library raise.
    """
    if place.container not in CONTAINERS:
        raise ItemError(f"nothing here reads a file of the kind {place.container!r}")
    while True:
        opened = _FILES.get(place)
        with opened.lock:
            if not opened.is_closed:  # by another thread, which needed the room
                return opened.container.read(place.key)
