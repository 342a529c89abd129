"""What an index is on disk: `index.json` beside the files that it names.

A new state is published under new names, then `index.json` is replaced, then the old files go: a
kill at any moment leaves the old state or the new one.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from fungistore.errors import MismatchError, StoreError, UsageError
from fungistore.fingerprint import Config, differences
from fungistore.indexing.options import Metric
from fungistore.indexing.vectors import VectorIndex
from fungistore.matrices.blocks import PCA, FeatureMatrix, open_features
from fungistore.names import is_file_name
from fungistore.store.durable import publish_bytes, sync
from fungistore.store.seal import sealed
from fungistore.store.store import Store

INDEXES = "indexes"
RECORD = "index.json"
SCHEMA = 1
READ_BYTES = 1 << 24
ATTEMPTS = 3  # a writer may replace the files between reading the record and opening them


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
        rows_done: rows of the sample table, from the first on, that were added or excluded.
        vectors: vectors in the index.
        excluded: rows without usable features.
        fingerprints: of the arrays that it was made from, by array name.
        content: digest of the checksums of the whole units among `rows_done`.
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
    metric: Metric
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
    content: str
    effort: Mapping[str, int]
    recall: Recall | None
    files: Mapping[str, StoredFile]

    @property
    def pca(self) -> str | None:
        """Name of the PCA that was indexed, or None."""
        first = self.features[0]
        return first.removeprefix(PCA) if first.startswith(PCA) else None

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
        asked: Config = {"store": store.manifest.id, "fingerprints": matrix.fingerprints}
        stored = {"store": self.store, "fingerprints": dict(self.fingerprints)}
        changed = differences(stored, asked, common=False)
        if self.rows_done > len(store.samples):
            changed["rows"] = (self.rows_done, len(store.samples))
        if changed:
            raise MismatchError(
                f"the store has changed since index {self.name!r} was made",
                where=store.root,
                expected="the features that the index was made from",
                found="\n    ".join(
                    f"{name}: index {old!r}, store {new!r}" for name, (old, new) in changed.items()
                ),
                hint=restart_hint(store, self),
            )
        return matrix


RECORDS = TypeAdapter(IndexRecord)


@dataclass(frozen=True)
class OpenIndex:
    """An index that can be searched, with the store's features that it belongs to."""

    store: Store
    record: IndexRecord
    vectors: VectorIndex
    matrix: FeatureMatrix


def open_index(
    store: Store, name: str | None = None, *, feature_set: str | None = None
) -> OpenIndex:
    """Open an index for searching.

    Args:
        store: the store.
        name: of the index; may be left out where there is one.
        feature_set: that the index belongs to; may be left out where the name tells.

    Raises:
        UsageError: there is no such index, or a choice between several; lists what exists.
        MismatchError: the store's features are not those that the index was made from.
        StoreError: the index is damaged.
    """
    for attempt in range(ATTEMPTS):
        directory = _choose(store, name, feature_set)
        record = read_record(directory)
        assert record is not None  # _choose lists directories with a record
        matrix = record.matrix(store)
        try:
            vectors = read_vectors(directory, record)
        except StoreError as error:
            is_replaced = isinstance(error.__cause__, FileNotFoundError)
            if is_replaced and attempt + 1 < ATTEMPTS:
                continue
            raise
        return OpenIndex(store, record, vectors, matrix)
    raise AssertionError  # the last attempt returns or raises


def index_directories(store: Store) -> list[Path]:
    """Return the directories of all indexes that have a record."""
    return sorted(path.parent for path in (store.root / INDEXES).glob(f"*/*/{RECORD}"))


def index_directory(store: Store, feature_set: str, name: str) -> Path:
    """Return where an index is, or would be."""
    return store.root / INDEXES / feature_set / name


def read_record(directory: Path) -> IndexRecord | None:
    """Read a record, None where there is none.

    Raises:
        StoreError: it is damaged, or of a newer version.
    """
    path = directory / RECORD
    if not path.exists():
        return None
    try:
        data = path.read_bytes()
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
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(
            "the record of an index is missing or damaged",
            where=path,
            found=error,
            hint=f"remove {directory} and run fungi index again",
        ) from error


def write_record(directory: Path, record: IndexRecord) -> None:
    """Make a state of the index the one that counts, then remove files of earlier ones."""
    document = sealed(asdict(record))
    publish_bytes(directory / RECORD, json.dumps(document, indent=1).encode())
    remove_strays(directory, record)


def remove_strays(directory: Path, record: IndexRecord) -> None:
    """Remove what neither is the record nor is named by it."""
    named = {RECORD, *(file.name for file in record.files.values())}
    for path in directory.iterdir():
        if path.name not in named:
            path.unlink()


def remove_index(directory: Path) -> None:
    """Delete an index, the record first: a kill half-way leaves nothing that looks whole."""
    (directory / RECORD).unlink(missing_ok=True)
    sync(directory)
    shutil.rmtree(directory)


def read_vectors(directory: Path, record: IndexRecord) -> VectorIndex:
    """Read the faiss file, comparing its checksum, with the search effort that was settled on.

    Raises:
        StoreError: it is missing or damaged.
    """
    vectors = VectorIndex.read(checked_file(directory, record, "vectors"), record.metric)
    if vectors.count != record.vectors:
        raise StoreError(
            "an index does not hold what its record says",
            where=directory,
            expected=f"{record.vectors} vectors",
            found=vectors.count,
        )
    for value in record.effort.values():
        vectors.set_effort(value)
    return vectors


def checked_file(directory: Path, record: IndexRecord, kind: str) -> Path:
    """Return the path of a file that the record names, after comparing its size and CRC-32.

    Raises:
        StoreError: it is missing or damaged.
    """
    if kind not in record.files:
        raise StoreError(
            "the record of an index names no file",
            where=directory / RECORD,
            expected=kind,
            hint="the same fungi index command with --restart builds it anew",
        )
    stored = record.files[kind]
    path = directory / stored.name
    try:
        found = crc32(path)
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        raise StoreError(
            "a file of an index cannot be read",
            where=path,
            found=error.strerror if isinstance(error, OSError) else error,
            hint="the same fungi index command with --restart builds it anew",
        ) from error
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
        f"fungi index {store.root} --feature-set {record.feature_set} --name {record.name} "
        "--restart builds it anew; another --name keeps both"
    )


def _choose(store: Store, name: str | None, feature_set: str | None) -> Path:
    found = index_directories(store)
    fitting = [
        path
        for path in found
        if name in (None, path.name) and feature_set in (None, path.parent.name)
    ]
    if len(fitting) == 1:
        return fitting[0]
    several = len({path.parent for path in fitting}) > 1
    listed = [f"{path.parent.name}: {path.name}" for path in found]
    raise UsageError(
        ("there is more than one index" if name is None else f"there are several {name!r}")
        if fitting
        else f"there is no index {name!r}"
        if found and name is not None
        else "there is no index here",
        where=f"feature set {feature_set!r} of {store.root}" if feature_set else store.root,
        expected=", ".join(listed) or None,
        hint=f"build one with: fungi index {store.root}"
        if not found
        else "name its --feature-set"
        if several and name is not None
        else "name one with --index",
    )
