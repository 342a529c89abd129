"""Whether another machine sees the store and the source that this one means."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from fungistore.engines.engine import DividedWork
from fungistore.errors import FungiError
from fungistore.store.backend import SCHEME
from fungistore.store.store import Store

NAMES_LOOKED_AT = 16


@dataclass(frozen=True)
class Sight:
    """What a machine sees; ready for JSON as a dictionary.

    Attributes:
        folder: the working directory, which relative paths are below.
        store: the place of the store that is worked on.
        store_id: what its store.json says.
        source: path of the source.
        size: of a file; None of a folder, and where there is no such path.
        names: some of the names in a folder.
    """

    folder: str
    store: str | None = None
    store_id: str | None = None
    source: str | None = None
    size: int | None = None
    names: tuple[str, ...] = ()


def look(work: DividedWork) -> Sight:
    """Return what this machine sees of the work; a store that is not there yet is made.

    Raises:
        UsageError: something else is at the store's place.
        StoreError: the store is damaged.
    """
    store_id = None
    if work.store is not None:
        store_id = Store.open_or_create(work.store).manifest.id
    if work.source is None or SCHEME in work.source:
        return Sight(os.getcwd(), work.store, store_id, work.source)
    size, names = _size(work.source), _names(work.source)
    return Sight(os.getcwd(), work.store, store_id, work.source, size, names)


def refuse_other_sight(sight: Sight, node: str) -> None:
    """Go to the same working directory, and see to it that what is there is the same.

    Args:
        sight: of the machine that plans.
        node: this machine, for messages.

    Raises:
        FungiError: something is not there, or another thing is.
    """
    paths = [path for path in (sight.store, sight.source) if path and SCHEME not in path]
    if os.path.isdir(sight.folder):
        os.chdir(sight.folder)
    elif any(not os.path.isabs(path) for path in paths):
        raise _unseen("the working directory", sight.folder, "that of the driver", "none", node)
    if sight.store is not None:
        found = Store.open(sight.store).manifest.id if Store.exists(sight.store) else None
        if found != sight.store_id:
            said = "no store" if found is None else f"another store, of id {found}"
            raise _unseen(
                "the store", sight.store, f"store.json of id {sight.store_id}", said, node
            )
    if sight.source is None or SCHEME in sight.source:
        return
    if sight.size is not None and (size := _size(sight.source)) != sight.size:
        said = "no such file" if size is None else f"{size} bytes"
        raise _unseen("the source", sight.source, f"a file of {sight.size} bytes", said, node)
    missing = [name for name in sight.names if not Path(sight.source, name).exists()]
    if missing:
        said = f"no {missing[0]}" if os.path.isdir(sight.source) else "no such folder"
        raise _unseen("the source", sight.source, f"{missing[0]} in it", said, node)


def _unseen(what: str, where: str, expected: str, found: str, node: str) -> FungiError:
    return FungiError(
        f"{what} on {node} is not the one that the driver sees",
        where=f"{where} on {node}",
        expected=expected,
        found=found,
        hint="a path that all nodes share, such as a network file system mounted in the same place",
    )


def _size(path: str) -> int | None:
    return os.path.getsize(path) if os.path.isfile(path) else None


def _names(path: str) -> tuple[str, ...]:
    if not os.path.isdir(path):
        return ()
    with os.scandir(path) as entries:
        return tuple(sorted(entry.name for entry in islice(entries, NAMES_LOOKED_AT)))
