"""What an index is on disk: `index.json` beside the files that it names.

A new state is published under new names, then `index.json` is replaced, then the old files go: a
kill at any moment leaves the old state or the new one.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from pydantic import TypeAdapter

from fungistore.errors import MismatchError, StoreError, UsageError
from fungistore.indexing.options import IndexMetric
from fungistore.matrices.blocks import FeatureMatrix, open_features
from fungistore.names import is_file_name
from fungistore.store.contents import Contents, Runs, digest_of
from fungistore.store.disk_errors import damage_explained
from fungistore.store.documents import encode_document, sealed
from fungistore.store.feature import is_pca, name_of
from fungistore.store.folder import Folder
from fungistore.store.references import changed_references, explain_banks
from fungistore.store.store import Store

INDEXES = "indexes"
RECORD = "index.json"
SCHEMA = 1
READ_BYTES = 1 << 24


@dataclass(frozen=True)
class StoredFile:
    """A file beside the record: its name, size and CRC-32."""

    name: str
    bytes: int
    crc32: int


@dataclass(frozen=True)
class Recall:
    """How many of the true k nearest neighbours a search finds, on average over some queries."""

    k: int
    value: float
    queries: int


@dataclass(frozen=True)
class IndexRecord:
    """The contents of `index.json`.

    Attributes:
        schema: version of this record.
        store: id of the store.
        feature_set: name of the feature set.
        name: name of the index in it.
        features: the blocks, or ("pca/NAME",).
        dim: width of a vector.
        metric: "cosine" or "euclidean".
        factory: faiss factory string; never "auto".
        reason: why it was chosen.
        seed: of the training sample and of the queries of the recall.
        target_recall: recall@k up to which the effort of a search was raised.
        chosen_for: rows that there were when the kind was chosen and trained.
        trained_on: vectors of the training sample, 0 where the kind needs none.
        rows_done: rows of the sample table that were added or excluded.
        done: how many of each unit these are; () where they are the first ones.
        vectors: vectors in the index.
        excluded: rows without usable features.
        removed: rows that were left out since their file was gone from the source: they are added
            when it comes back.
        fingerprints: of the arrays that it was made from, by array name.
        contents: of the arrays that it was made from, by array name.
        effort: the search parameter that was settled on, such as {"nprobe": 8}.
        recall: None until it was measured; 1 by definition, with no queries, for exact search.
        files: the faiss file as "vectors" and, unless search is exact, "reference".
    """

    schema: int
    store: str
    feature_set: str
    name: str
    features: tuple[str, ...]
    dim: int
    metric: IndexMetric
    factory: str
    reason: str
    seed: int
    target_recall: float
    chosen_for: int
    trained_on: int
    rows_done: int
    vectors: int
    excluded: int
    fingerprints: Mapping[str, str]
    effort: Mapping[str, int]
    recall: Recall | None
    files: Mapping[str, StoredFile]
    done: Runs = ()
    contents: Contents = field(default_factory=dict)
    removed: tuple[int, ...] = ()

    @property
    def pca(self) -> str | None:
        """Name of the PCA that was indexed, or None."""
        first = self.features[0]
        return name_of(first) if is_pca(first) else None

    @property
    def content(self) -> str:
        """One digest of the rows that it was made from."""
        return digest_of(self.contents)

    def matrix(self, store: Store) -> FeatureMatrix:
        """Open the features that the index was made from.

        Raises:
            MismatchError: they are gone, or were made anew with other settings.
        """
        try:
            blocks = None if self.pca else self.features
            matrix = open_features(store, blocks, pca=self.pca, feature_set=self.feature_set)
        except UsageError as error:
            raise MismatchError(
                f"the features of index {self.name!r} are gone",
                where=error.where,
                expected=", ".join(self.features),
                found=error.expected,
                hint=restart_hint(store, self),
            ) from error
        arrays = changed_references(self.fingerprints, matrix.fingerprints)
        changed: dict[str, tuple[Any, Any]] = {
            f"fingerprints.{name}": both for name, both in arrays.items()
        }
        if self.store != store.manifest.id:
            changed["store"] = (self.store, store.manifest.id)
        if self.rows_done > len(store.samples):
            changed["rows"] = (self.rows_done, len(store.samples))
        if changed:
            raise MismatchError(
                f"the store has changed since index {self.name!r} was made",
                where=store.where,
                expected="the features that the index was made from",
                found="\n    ".join(
                    f"{name}: index {old!r}, store {new!r}" for name, (old, new) in changed.items()
                )
                + explain_banks(arrays),
                hint=restart_hint(store, self),
            )
        return matrix


RECORDS = TypeAdapter(IndexRecord)


def index_folders(store: Store) -> list[Folder]:
    """Return the folders of all indexes that have a record."""
    sets = store.folder(INDEXES).below()
    return [folder for each in sets for folder in each.below() if folder.has(RECORD)]


def index_folder(store: Store, feature_set: str, name: str) -> Folder:
    """Return where an index is, or would be."""
    return store.folder(INDEXES, feature_set, name)


def read_record(folder: Folder) -> IndexRecord | None:
    """Read a record, None where there is none.

    Raises:
        StoreError: it is damaged, or of a newer version.
    """
    if not folder.has(RECORD):
        return None
    with damage_explained(
        "the record of an index is missing or damaged",
        folder.where(RECORD),
        f"remove {folder.where()} and run fungi index again",
    ):
        data = folder.read(RECORD)
        schema = json.loads(data)["schema"]
        if schema != SCHEMA:
            raise ValueError(f"schema {schema}; this version reads {SCHEMA}")
        record = RECORDS.validate_json(data)
        if not record.features:
            raise ValueError("no features")
        for file in record.files.values():
            if not is_file_name(file.name):
                raise ValueError(f"a file at {file.name!r}, which is not beside the record")
        return record


def write_record(folder: Folder, record: IndexRecord) -> None:
    """Make a state of the index the one that counts, then remove files of earlier ones."""
    folder.publish(RECORD, encode_document(sealed(asdict(record))))
    remove_strays(folder, record)


def remove_strays(folder: Folder, record: IndexRecord) -> None:
    """Remove what neither is the record nor is named by it."""
    named = {RECORD, *(file.name for file in record.files.values())}
    for name in folder.list().files:
        if name not in named:
            folder.remove(name)
    for key in folder.backend.leftovers(folder.key):
        folder.backend.remove(key)


def remove_index(folder: Folder) -> None:
    """Delete an index, the record first: a kill half-way leaves nothing that looks whole."""
    folder.remove(RECORD)
    folder.remove()


def checked_file(folder: Folder, record: IndexRecord, kind: str) -> Path:
    """Return the path of a file that the record names, after comparing its size and CRC-32.

    Raises:
        StoreError: it is missing or damaged.
    """
    if kind not in record.files:
        raise StoreError(
            "the record of an index names no file",
            where=folder.where(RECORD),
            expected=kind,
            hint="the same fungi index command with --restart builds it anew",
        )
    stored = record.files[kind]
    with damage_explained(
        "a file of an index cannot be read",
        folder.where(stored.name),
        "the same fungi index command with --restart builds it anew",
    ):
        path = folder.local_path(stored.name)
        found = crc32(path)
    if found != stored.crc32:
        raise StoreError(
            "a file of an index is damaged",
            where=path,
            expected=f"CRC-32 {stored.crc32:08x} of {stored.bytes} bytes",
            found=f"{found:08x} of {path.stat().st_size} bytes",
            hint="the same fungi index command with --restart builds it anew",
        )
    return path


def crc32(path: Path) -> int:
    """Return the CRC-32 of a file, read in pieces."""
    checksum = 0
    with path.open("rb") as file:
        while data := file.read(READ_BYTES):
            checksum = zlib.crc32(data, checksum)
    return checksum


def restart_hint(store: Store, record: IndexRecord) -> str:
    """Return how to build the index anew, or beside itself."""
    return (
        f"fungi index {quote(store.where)} --feature-set {record.feature_set} "
        f"--name {record.name} --restart builds it anew; another --name keeps both"
    )
