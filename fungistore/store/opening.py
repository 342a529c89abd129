"""What opening a store for reading takes: known before, and asked for at once where that helps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from fungistore.store.removed import REMOVED
from fungistore.store.store import Store
from fungistore.store.units import UnitArray


@contextmanager
def opening(store: Store) -> Iterator[None]:
    """Let this thread read what it asks for within once; see `Backend.once`."""
    with store.backend.once():
        store.backend.soon("local_path", REMOVED)
        store.samples.soon()
        yield


def begin(store: Store, arrays: Iterable[UnitArray]) -> None:
    """Begin to read what the rows of arrays, and what they were made with, are known by."""
    fingerprints = set()
    for array in arrays:
        array.soon()
        fingerprints.add(array.fingerprint)
    store.setups.soon(fingerprints)
