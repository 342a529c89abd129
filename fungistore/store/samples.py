"""The sample table: one row a sample, in an order that never changes, grown by adding parts.

`samples.parquet` is a directory of Parquet files, as Arrow, pandas and polars read it; appending
a part leaves the others untouched. Which parts count is said by `store.json`, in one atomic write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fungistore.location import absolute_uri, is_there, locate
from fungistore.sources.cells import cell_as
from fungistore.sources.sample import CellType, Sample, Source, columns_of
from fungistore.store.census import Census, SourceChanges, hash_samples, microseconds
from fungistore.store.columns import PREFIX, columns_in, hash_cells, joined_columns, with_columns
from fungistore.store.disk_errors import damage_explained
from fungistore.store.folder import Folder

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
REMOVED_SHOWN = 3
NO_COLUMNS: Mapping[str, CellType] = MappingProxyType({})
PART_NAME = re.compile(r"part-\d{5,}\.parquet")

Rows = NDArray[np.int64]  # row numbers of the table


@dataclass(frozen=True)
class Part:
    """One file of the table.

    Attributes:
        file: its name.
        rows: how many it has.
        root: what its relative uris start from.
        checksum: digest of the file's bytes; None while the file is being replaced.
    """

    file: str
    rows: int
    root: str
    checksum: str | None


class SampleTable:
    """Reads and extends the table of samples.

    Args:
        folder: `samples.parquet`.
        parts: its committed files, in row order.
    """

    def __init__(self, folder: Folder, parts: list[Part]) -> None:
        self.folder = folder
        self.parts = parts
        self._read: tuple[Part, int, pa.Table] | None = None  # the row group that was read last

    def __len__(self) -> int:
        return sum(part.rows for part in self.parts)

    def rows(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Return rows [start, stop) as dictionaries of the columns, with their part's `root`."""
        found: list[dict[str, Any]] = []
        first = 0
        for part in self.parts:
            low, high = max(start, first) - first, min(stop, first + part.rows) - first
            if low < high:
                for group in range(low // ROWS_PER_GROUP, (high - 1) // ROWS_PER_GROUP + 1):
                    start = group * ROWS_PER_GROUP
                    begin = max(low - start, 0)
                    table = self._group(part, group).slice(begin, high - start - begin)
                    found += [row | {"root": part.root} for row in table.to_pylist()]
            first += part.rows
        return found

    def _group(self, part: Part, group: int) -> pa.Table:
        """Return a row group; the last one is kept, since small units ask for it many times."""
        last = self._read  # one look: threads may ask at once
        if last is None or last[:2] != (part, group):
            with self._open(part) as file:
                last = (part, group, file.read_row_group(group, columns=SCHEMA.names))
            self._read = last
        return last[2]

    def take(self, rows: Sequence[int] | Rows) -> list[dict[str, Any]]:
        """Return what `rows` does of single rows, in any order; each row group is read once."""
        numbers = np.asarray(rows, np.int64)
        found: dict[int, dict[str, Any]] = {}
        first = 0
        for part in self.parts:
            own = np.unique(numbers[(numbers >= first) & (numbers < first + part.rows)]) - first
            first += part.rows
            if not len(own):
                continue
            with self._open(part) as file:
                for group in np.split(own, np.flatnonzero(np.diff(own // ROWS_PER_GROUP)) + 1):
                    table = file.read_row_group(
                        int(group[0]) // ROWS_PER_GROUP, columns=SCHEMA.names
                    )
                    chosen = table.take(pa.array(group % ROWS_PER_GROUP)).to_pylist()
                    found |= {row["row"]: row | {"root": part.root} for row in chosen}
        return [found[number] for number in numbers.tolist()]

    def batches(self, *columns: str) -> Iterator[pa.RecordBatch]:
        """Yield the table's columns batch by batch, in row order."""
        for part in self.parts:
            with self._open(part) as file:
                yield from file.iter_batches(ROWS_PER_GROUP, columns=list(columns))

    def ids(self) -> Iterator[str]:
        """Yield the ids of all samples, in order."""
        for batch in self.batches("id"):
            yield from batch["id"].to_pylist()

    def labels(self) -> NDArray[np.int32]:
        """Return every row's label, -1 where it is not known."""
        parts = [batch["label"].fill_null(-1).to_numpy() for batch in self.batches("label")]
        return np.concatenate([np.zeros(0, np.int32), *parts])

    def splits(self) -> dict[str, Rows]:
        """Return the row numbers of each split; rows without one are in none."""
        rows: dict[str, list[Rows]] = {}
        first = 0
        for batch in self.batches("split"):
            column = batch["split"].dictionary_encode()
            codes = column.indices.fill_null(-1).to_numpy()
            for code, name in enumerate(column.dictionary.to_pylist()):
                rows.setdefault(name, []).append(first + np.flatnonzero(codes == code))
            first += len(batch)
        joined = {name: np.concatenate(parts) for name, parts in sorted(rows.items())}
        return {name: numbers for name, numbers in joined.items() if len(numbers)}

    def rows_of_split(self, split: str) -> Rows:
        """Return the row numbers of a split, or of all samples where none has that split."""
        return self.splits().get(split, np.arange(len(self)))

    def columns(self) -> dict[str, CellType]:
        """Return the columns that sources had beside those of every sample, with their types."""
        return joined_columns(map(self._columns_of, self.parts))

    def tables(self) -> Iterator[tuple[Part, pa.Table]]:
        """Yield each part with all of its columns."""
        for part in self.parts:
            with self._open(part) as file:
                yield part, file.read()

    def _columns_of(self, part: Part) -> dict[str, CellType]:
        with self._open(part) as file:
            return columns_in(file.schema_arrow)

    def append(
        self,
        samples: Iterable[Sample],
        root: str,
        labels: Mapping[str, int],
        columns: Mapping[str, CellType] = NO_COLUMNS,
        *,
        keep_changed: bool = False,
    ) -> tuple[Part | None, SourceChanges]:
        """Write the samples that the table lacks as a new part, which the caller then commits.

        Streams: memory is 16 bytes a sample, whatever the source, and what is collected for
        `refresh`: with `keep_changed` the samples that have changed, and always other cells.
        `columns` are those of the samples' cells.

        Raises:
            UsageError: two samples have the same id.
        """
        cells = self._cell_hashes(list(columns)) if columns else None
        census = Census(*self._keys(), keep_changed=keep_changed, cells=cells)
        schema = with_columns(SCHEMA, columns)
        fresh = census.new_samples(samples)
        first = list(islice(fresh, ROWS_PER_GROUP))
        if not first:
            census.refuse_duplicates(None)
            return None, self._with_removed(census, root)
        name = f"part-{len(self.parts):05d}.parquet"

        def write(temporary: Path) -> None:
            row, group = len(self), first
            with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
                while group:
                    writer.write_table(_table(group, row, labels, schema))
                    row += len(group)
                    group = list(islice(fresh, ROWS_PER_GROUP))
            census.refuse_duplicates(temporary)

        self.folder.publish_file(name, write)
        with self.removed_on_error(name):
            changes = self._with_removed(census, root)
            return Part(name, changes.added, root, self.folder.digest(name)), changes

    @contextmanager
    def removed_on_error(self, name: str | None) -> Iterator[None]:
        """Remove a new part, if there is one, where something fails before it is committed."""
        try:
            yield
        except BaseException:
            if name is not None:
                self.folder.remove(name)
            raise

    def other_items(self, changed: Mapping[int, Sample], root: str) -> list[str]:
        """Return the ids of changed rows whose own file, below another root, is still there.

        Then the sample of this root is no newer version of it, but another item of that name.
        """
        found: list[str] = []
        first = 0
        for part in self.parts:
            rows = [row for row in changed if first <= row < first + part.rows]
            if rows and part.root != root:
                for row in self.take(rows):
                    mine = locate(root, changed[row["row"]].uri)
                    own = locate(part.root, row["uri"])
                    is_other = (own.path, own.content) != (mine.path, mine.content)
                    if is_other and own.exists():
                        found.append(row["id"])
            first += part.rows
        return found

    def refresh(self, part: Part, changes: SourceChanges, source: Source) -> Part:
        """Replace a part by one with what a source says of some rows now.

        Args:
            part: one of this table's, which the manifest must vouch for without a checksum
                meanwhile: a kill may leave the old file or the new one.
            changes: places, sizes and times of changed samples, and cells, by row of the table.
            source: what they are of; its root may not be the part's root.
        """
        own, theirs, root = self._columns_of(part), columns_of(source), source.root
        kinds = joined_columns([own, theirs])
        schema = with_columns(SCHEMA, kinds)

        def write(temporary: Path) -> None:
            with (
                self._open(part) as file,
                pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
            ):
                for batch in file.iter_batches(ROWS_PER_GROUP):
                    columns = {name: batch[name].to_pylist() for name in SCHEMA.names[:-1]}
                    columns["mtime"] = batch["mtime"].cast(pa.int64()).to_pylist()
                    for name, kind in kinds.items():
                        stored = batch[PREFIX + name].to_pylist() if name in own else []
                        stored = stored or [None] * len(batch)
                        columns[PREFIX + name] = [cell_as(cell, kind) for cell in stored]
                    for place, row in enumerate(columns["row"]):
                        if sample := changes.changed_samples.get(row):
                            is_own = root == part.root
                            uri = sample.uri if is_own else absolute_uri(root, sample.uri)
                            columns["uri"][place] = uri
                            columns["bytes"][place] = sample.bytes
                            columns["mtime"][place] = microseconds(sample.mtime)
                        for name, cell in zip(
                            theirs, changes.changed_cells.get(row, ()), strict=False
                        ):
                            columns[PREFIX + name][place] = cell_as(cell, kinds[name])
                    writer.write_table(pa.table(columns, schema=schema))

        self.folder.publish_file(part.file, write)
        return self.sealed(part)

    def sealed(self, part: Part) -> Part:
        """Return a part with the checksum of its file."""
        return replace(part, checksum=self.folder.digest(part.file))

    def moved(self, part: Part, root: str) -> Part:
        """Return the part with another root, if its own is gone and its first sample is there.

        A root behind another user's folder, which may not be looked at, is as good as gone.
        """
        with suppress(PermissionError):
            if is_there(part.root):
                return part
        if not part.rows:
            return part
        with self._open(part) as file:
            uri = next(file.iter_batches(1, columns=["uri"]))["uri"][0].as_py()
        return replace(part, root=root) if locate(root, uri).exists() else part

    def _with_removed(self, census: Census, root: str) -> SourceChanges:
        """Return changes that also know what this table has of a source that lacks it now."""
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
        return replace(census.changes(), removed=len(removed), first_removed=tuple(names))

    @contextmanager
    def _open(self, part: Part) -> Iterator[pq.ParquetFile]:
        what = "a part of the sample table is missing or damaged"
        with (
            damage_explained(what, self.folder.where(part.file)),
            pq.ParquetFile(self.folder.local_path(part.file)) as file,
        ):
            yield file

    def _keys(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        hashes = [hash_samples([])]
        for batch in self.batches("id", "uri", "bytes", "mtime"):
            times = batch["mtime"].cast(pa.int64()).to_pylist()
            columns = (*(batch[name].to_pylist() for name in ("id", "uri", "bytes")), times)
            hashes.append(hash_samples(zip(*columns, strict=True)))
        keys, stamps = zip(*hashes, strict=True)
        return np.concatenate(keys), np.concatenate(stamps)

    def _cell_hashes(self, names: list[str]) -> NDArray[np.uint64]:
        """Return hashes of every row's cells of some columns; those that a part lacks are empty."""
        hashes = [np.zeros(0, np.uint64)]
        for part in self.parts:
            own = self._columns_of(part)
            present = [PREFIX + name for name in names if name in own]
            with self._open(part) as file:
                for batch in file.iter_batches(ROWS_PER_GROUP, columns=["row", *present]):
                    lists = {name: batch[name].to_pylist() for name in present}
                    empty = [None] * len(batch)
                    cells = [lists.get(PREFIX + name, empty) for name in names]
                    hashes.append(hash_cells(zip(*cells, strict=True)))
        return np.concatenate(hashes)


def _table(
    samples: list[Sample], row: int, labels: Mapping[str, int], schema: pa.Schema
) -> pa.Table:
    columns = {
        "row": list(range(row, row + len(samples))),
        "id": [sample.id for sample in samples],
        "uri": [sample.uri for sample in samples],
        "label": [None if s.label is None else labels[s.label] for s in samples],
        "split": [sample.split for sample in samples],
        "bytes": [sample.bytes for sample in samples],
        "mtime": [microseconds(sample.mtime) for sample in samples],
    }
    cells = zip(*(sample.cells for sample in samples), strict=True)
    columns |= dict(zip(schema.names[len(SCHEMA) :], map(list, cells), strict=True))
    return pa.table(columns, schema=schema)
