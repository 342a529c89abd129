"""Indexes opened for searching."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from fungistore.errors import StoreError, UsageError
from fungistore.indexing.record import (
    IndexRecord,
    checked_file,
    index_folders,
    read_record,
)
from fungistore.indexing.vectors import VectorIndex
from fungistore.matrices.blocks import FeatureMatrix
from fungistore.quantities import counted
from fungistore.store.folder import Folder
from fungistore.store.store import Store

ATTEMPTS = 3  # a writer may replace the files between reading the record and opening them


@dataclass(frozen=True)
class OpenIndex:
    """An index that can be searched, with the store's features that it belongs to."""

    store: Store
    record: IndexRecord
    vectors: VectorIndex
    matrix: FeatureMatrix


def open_index(
    store: str | Path | Store, name: str | None = None, *, feature_set: str | None = None
) -> OpenIndex:
    """Open an index for searching.

    Args:
        store: the store, or its place.
        name: of the index; may be left out where there is one.
        feature_set: that the index belongs to; may be left out where the name tells.

    Raises:
        UsageError: there is no such index, or a choice between several; lists what exists.
        MismatchError: the store's features are not those that the index was made from.
        StoreError: the index is damaged.
    """
    store = Store.open(store)
    for attempt in range(ATTEMPTS):
        folder = _choose(store, name, feature_set)
        record = read_record(folder)
        assert record is not None  # _choose lists folders with a record
        matrix = record.matrix(store)
        try:
            vectors = read_vectors(folder, record)
        except StoreError as error:
            is_replaced = isinstance(error.__cause__, FileNotFoundError)
            if is_replaced and attempt + 1 < ATTEMPTS:
                continue
            raise
        return OpenIndex(store, record, vectors, matrix)
    raise AssertionError  # the last attempt returns or raises


def read_vectors(folder: Folder, record: IndexRecord) -> VectorIndex:
    """Read the faiss file, comparing its checksum, with the search effort that was settled on.

    Raises:
        StoreError: it is missing or damaged.
    """
    vectors = VectorIndex.read(checked_file(folder, record, "vectors"), record.metric)
    if vectors.count != record.vectors:
        raise StoreError(
            "an index does not hold what its record says",
            where=folder.where(),
            expected=f"{counted(record.vectors, 'vector')}",
            found=vectors.count,
        )
    for value in record.effort.values():
        vectors.set_effort(value)
    return vectors


def _choose(store: Store, name: str | None, feature_set: str | None) -> Folder:
    found = index_folders(store)
    fitting = [
        folder
        for folder in found
        if name in (None, folder.name) and feature_set in (None, folder.parent.name)
    ]
    if len(fitting) == 1:
        return fitting[0]
    several = len({folder.parent for folder in fitting}) > 1
    listed = [f"{folder.parent.name}: {folder.name}" for folder in found]
    raise UsageError(
        ("there is more than one index" if name is None else f"there are several {name!r}")
        if fitting
        else f"there is no index {name!r}"
        if found and name is not None
        else "there is no index here",
        where=f"feature set {feature_set!r} of {store.where}" if feature_set else store.where,
        expected=", ".join(listed) or None,
        hint=f"build one with: fungi index {quote(store.where)}"
        if not found
        else "name its --feature-set"
        if several and name is not None
        else "name one with --index",
    )
