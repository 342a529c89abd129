"""The sample table: one row an image, in an order that never changes, grown by adding parts.

`samples.parquet` is a directory of Parquet files, as Arrow, pandas and polars read it; appending
a part leaves the others untouched. Which parts count is said by `store.json`, in one atomic write.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fungistore.errors import StoreError, UsageError
from fungistore.sources import Sample, absolute_uri, locate
from fungistore.store.durable import file_digest, publish

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("uri", pa.string()),
        ("label", pa.int32()),
        ("split", pa.dictionary(pa.int32(), pa.string())),
        ("bytes", pa.int64()),
        ("mtime", pa.timestamp("us", tz="UTC")),
    ]
)
ROWS_PER_GROUP = 16_384
MICROSECONDS = 1_000_000
CALENDAR = (-62_135_596_800, 253_402_300_799)  # the years 1 to 9999, in seconds from the epoch
DUPLICATES_SHOWN = 3
REMOVED_SHOWN = 3


@dataclass(frozen=True)
class Part:
    """One file of the table.

    Attributes:
        file: its name.
        rows: how many it has.
        root: what its relative uris start from.
        checksum: digest of the file's bytes; None where an earlier version wrote it.
    """

    file: str
    rows: int
    root: str
    checksum: str | None = None


@dataclass(frozen=True)
class Comparison:
    """A source against the table.

    Attributes:
        added: images that are new.
        known: images that the table has.
        changed: of those, images of another size or time.
        removed: images that the table has from this source, and that the source lacks now.
        first_removed: the ids of some of them.
        changed_samples: by row, what the source says of the changed ones; only where it was asked.
    """

    added: int
    known: int
    changed: int
    removed: int = 0
    first_removed: tuple[str, ...] = ()
    changed_samples: Mapping[int, Sample] = field(default_factory=dict)


class SampleTable:
    """Reads and extends the table of samples.

    Args:
        directory: the `samples.parquet` directory.
        parts: its committed files, in row order.
    """

    def __init__(self, directory: Path, parts: list[Part]) -> None:
        self.directory = directory
        self.parts = parts

    def __len__(self) -> int:
        return sum(part.rows for part in self.parts)

    def rows(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Return rows [start, stop) as dictionaries of the columns, with their part's `root`."""
        found: list[dict[str, Any]] = []
        first = 0
        for part in self.parts:
            low, high = max(start, first) - first, min(stop, first + part.rows) - first
            if low < high:
                groups = range(low // ROWS_PER_GROUP, (high - 1) // ROWS_PER_GROUP + 1)
                with self._open(part) as file:
                    table = file.read_row_groups(list(groups))
                table = table.slice(low - groups[0] * ROWS_PER_GROUP, high - low)
                found += [row | {"root": part.root} for row in table.to_pylist()]
            first += part.rows
        return found

    def batches(self, *columns: str) -> Iterator[pa.RecordBatch]:
        """Yield the table's columns batch by batch, in row order."""
        for part in self.parts:
            with self._open(part) as file:
                yield from file.iter_batches(ROWS_PER_GROUP, columns=list(columns))

    def labels(self) -> NDArray[np.int32]:
        """Return every row's label, -1 where it is not known."""
        parts = [batch["label"].fill_null(-1).to_numpy() for batch in self.batches("label")]
        return np.concatenate([np.zeros(0, np.int32), *parts])

    def splits(self) -> dict[str, NDArray[np.int64]]:
        """Return the row numbers of each split; rows without one are in none."""
        rows: dict[str, list[NDArray[np.int64]]] = {}
        first = 0
        for batch in self.batches("split"):
            column = batch["split"].dictionary_encode()
            codes = column.indices.fill_null(-1).to_numpy()
            for code, name in enumerate(column.dictionary.to_pylist()):
                rows.setdefault(name, []).append(first + np.flatnonzero(codes == code))
            first += len(batch)
        joined = {name: np.concatenate(parts) for name, parts in sorted(rows.items())}
        return {name: numbers for name, numbers in joined.items() if len(numbers)}

    def rows_of_split(self, split: str) -> NDArray[np.int64]:
        """Return the row numbers of a split, or of all samples where none has that split."""
        return self.splits().get(split, np.arange(len(self)))

    def append(
        self,
        samples: Iterable[Sample],
        root: str,
        labels: Mapping[str, int],
        *,
        keep_changed: bool = False,
    ) -> tuple[Part | None, Comparison]:
        """Write the samples that the table lacks as a new part, which the caller then commits.

        Streams: memory is 16 bytes a sample, whatever the source. `keep_changed` collects the
        samples that have changed, for `refresh`.

        Raises:
            UsageError: two samples have the same id.
        """
        census = Census(*self._keys(), keep_changed=keep_changed)
        fresh = census.new_samples(samples)
        first = list(islice(fresh, ROWS_PER_GROUP))
        if not first:
            census.refuse_duplicates(None)
            return None, self._with_removed(census, root)
        path = self.directory / f"part-{len(self.parts):05d}.parquet"

        def write(temporary: Path) -> None:
            row, group = len(self), first
            with pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
                while group:
                    writer.write_table(_table(group, row, labels))
                    row += len(group)
                    group = list(islice(fresh, ROWS_PER_GROUP))
            census.refuse_duplicates(temporary)

        publish(path, write)
        comparison = self._with_removed(census, root)
        return Part(path.name, comparison.added, root, file_digest(path)), comparison

    def other_images(self, changed: Mapping[int, Sample], root: str) -> list[str]:
        """Return the ids of changed rows whose own file, below another root, is still there.

        Then the sample of this root is no newer version of it, but another image of that name.
        """
        found: list[str] = []
        first = 0
        for part in self.parts:
            rows = [row for row in changed if first <= row < first + part.rows]
            if rows and part.root != root:
                for row in self._chosen(part, [row - first for row in rows]):
                    mine = locate(root, changed[row["row"]].uri).path
                    own = locate(part.root, row["uri"]).path
                    if own != mine and os.path.exists(own):
                        found.append(row["id"])
            first += part.rows
        return found

    def _chosen(self, part: Part, places: list[int]) -> Iterator[dict[str, Any]]:
        first = 0
        with self._open(part) as file:
            for batch in file.iter_batches(ROWS_PER_GROUP, columns=["row", "id", "uri"]):
                here = [p - first for p in places if first <= p < first + len(batch)]
                yield from batch.take(pa.array(here, pa.int64())).to_pylist()
                first += len(batch)

    def refresh(self, part: Part, changed: Mapping[int, Sample], root: str) -> Part:
        """Replace a part by one with the places, sizes and times that some rows have now.

        Args:
            part: one of this table's, which the manifest must vouch for without a checksum
                meanwhile: a kill may leave the old file or the new one.
            changed: samples by row of the table.
            root: what the samples' relative uris start from, which may not be the part's root.
        """
        path = self.directory / part.file

        def write(temporary: Path) -> None:
            with (
                self._open(part) as file,
                pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer,
            ):
                for batch in file.iter_batches(ROWS_PER_GROUP):
                    columns = {name: batch[name].to_pylist() for name in SCHEMA.names[:-1]}
                    columns["mtime"] = batch["mtime"].cast(pa.int64()).to_pylist()
                    for place, row in enumerate(columns["row"]):
                        if sample := changed.get(row):
                            is_own = root == part.root
                            uri = sample.uri if is_own else absolute_uri(root, sample.uri)
                            columns["uri"][place] = uri
                            columns["bytes"][place] = sample.bytes
                            columns["mtime"][place] = _microseconds(sample.mtime)
                    writer.write_table(pa.table(columns, schema=SCHEMA))

        publish(path, write)
        return replace(part, checksum=file_digest(path))

    def moved(self, part: Part, root: str) -> Part:
        """Return the part with another root, if its own is gone and its first sample is there."""
        if os.path.isdir(part.root) or not part.rows:
            return part
        with self._open(part) as file:
            uri = next(file.iter_batches(1, columns=["uri"]))["uri"][0].as_py()
        is_there = os.path.exists(locate(root, uri).path)
        return replace(part, root=root) if is_there else part

    def _with_removed(self, census: Census, root: str) -> Comparison:
        """Return a comparison that also knows what this table has of a source that lacks it now."""
        unseen = census.unseen_rows()
        first, found = 0, [np.zeros(0, np.int64)]
        for part in self.parts:
            own = unseen[
                np.searchsorted(unseen, first) : np.searchsorted(unseen, first + part.rows)
            ]
            if len(own) and self.moved(part, root).root == root:
                found.append(own)
            first += part.rows
        removed = np.concatenate(found)
        names = [self.rows(row, row + 1)[0]["id"] for row in removed[:REMOVED_SHOWN].tolist()]
        return replace(census.comparison(), removed=len(removed), first_removed=tuple(names))

    @contextmanager
    def _open(self, part: Part) -> Iterator[pq.ParquetFile]:
        path = self.directory / part.file
        try:
            with pq.ParquetFile(path) as file:
                yield file
        except (OSError, pa.ArrowInvalid) as error:
            raise StoreError(
                "a part of the sample table is missing or damaged", where=path, found=error
            ) from error

    def _keys(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        keys, stamps = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
        for batch in self.batches("id", "bytes", "mtime"):
            times = batch["mtime"].cast(pa.int64()).to_pylist()
            pairs = zip(batch["id"].to_pylist(), batch["bytes"].to_pylist(), times, strict=True)
            both = [_hash(*pair) for pair in pairs]
            keys.append(np.array([key for key, _ in both], np.uint64))
            stamps.append(np.array([stamp for _, stamp in both], np.uint64))
        return np.concatenate(keys), np.concatenate(stamps)


class Census:
    """Tells new samples from known ones by their ids' 64-bit hashes.

    Args:
        keys: hashes of the known ids.
        stamps: hashes of the known ids with their sizes and times, in the same order.
        keep_changed: collect the samples of another size or time.
    """

    def __init__(
        self, keys: NDArray[np.uint64], stamps: NDArray[np.uint64], *, keep_changed: bool
    ) -> None:
        self._order = order = np.argsort(keys)
        self._keep_changed = keep_changed
        self._changed_samples: dict[int, Sample] = {}
        self._keys, self._stamps = keys[order], stamps[order]
        self._added: list[NDArray[np.uint64]] = [np.zeros(0, np.uint64)]
        self._seen = np.zeros(len(keys), np.uint32)
        self._repeated: set[str] = set()
        self._changed = 0

    def new_samples(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """Yield the samples that are not known, counting those that are."""
        stream = iter(samples)
        while batch := list(islice(stream, ROWS_PER_GROUP)):
            keys, stamps = _hash_samples(batch)
            known = np.isin(keys, self._keys)
            at = np.searchsorted(self._keys, keys[known])
            np.add.at(self._seen, at, 1)
            self._repeated |= {batch[i].id for i in np.flatnonzero(known)[self._seen[at] > 1]}
            changed = self._stamps[at] != stamps[known]
            self._changed += int(changed.sum())
            if self._keep_changed:
                rows = self._order[at[changed]].tolist()
                places = np.flatnonzero(known)[changed]
                self._changed_samples |= {
                    row: batch[place] for row, place in zip(rows, places, strict=True)
                }
            self._added.append(keys[~known])
            yield from (sample for sample, old in zip(batch, known, strict=True) if not old)

    def comparison(self) -> Comparison:
        """Return the counts so far."""
        return Comparison(
            sum(map(len, self._added)),
            int(self._seen.sum()),
            self._changed,
            changed_samples=self._changed_samples,
        )

    def unseen_rows(self) -> NDArray[np.int64]:
        """Return the rows, ascending, of the known samples that did not come by."""
        return np.sort(self._order[self._seen == 0])

    def refuse_duplicates(self, part: Path | None) -> None:
        """Raise UsageError if two samples have the same id; new ones are written to `part`."""
        values, counts = np.unique(np.concatenate(self._added), return_counts=True)
        suspects = set(values[counts > 1].tolist())
        duplicates = set(self._repeated)
        if part is not None and suspects:
            seen: Counter[str] = Counter()
            with pq.ParquetFile(part) as file:
                for batch in file.iter_batches(ROWS_PER_GROUP, columns=["id"]):
                    ids = batch["id"].to_pylist()
                    seen.update(i for i in ids if _hash(i, None, None)[0] in suspects)
            # hashes alone may meet by chance: once in 4,000 tables of 100 million samples
            duplicates |= {sample_id for sample_id, count in seen.items() if count > 1}
        if duplicates:
            raise UsageError(
                f"{len(duplicates)} sample ids occur more than once",
                expected="every sample has its own id",
                found=", ".join(map(repr, sorted(duplicates)[:DUPLICATES_SHOWN])),
                hint="give the manifest an `id` column with unique values, or remove repeated rows",
            )


def _table(samples: list[Sample], row: int, labels: Mapping[str, int]) -> pa.Table:
    columns = {
        "row": list(range(row, row + len(samples))),
        "id": [sample.id for sample in samples],
        "uri": [sample.uri for sample in samples],
        "label": [None if s.label is None else labels[s.label] for s in samples],
        "split": [sample.split for sample in samples],
        "bytes": [sample.bytes for sample in samples],
        "mtime": [_microseconds(sample.mtime) for sample in samples],
    }
    return pa.table(columns, schema=SCHEMA)


def _hash_samples(samples: list[Sample]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return a 64-bit key of each id, and a stamp of each id with its size and time."""
    both = [_hash(s.id, s.bytes, _microseconds(s.mtime)) for s in samples]
    return (
        np.array([key for key, _ in both], np.uint64),
        np.array([stamp for _, stamp in both], np.uint64),
    )


def _hash(sample_id: str, size: int | None, microseconds: int | None) -> tuple[int, int]:
    state = hashlib.blake2b(sample_id.encode(), digest_size=8)
    key = int.from_bytes(state.digest(), "little")
    state.update(f"\0{size}\0{microseconds}".encode())
    return key, int.from_bytes(state.digest(), "little")


def _microseconds(seconds: float | None) -> int | None:
    """Return a time for the table, None for one beyond the calendar (broken disks have such)."""
    if seconds is None or not CALENDAR[0] < seconds < CALENDAR[1]:
        return None
    return round(seconds * MICROSECONDS)
