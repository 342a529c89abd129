"""The sample table: one row a sample, in an order that never changes, grown by adding parts.

`samples.parquet` is a directory of Parquet files, as Arrow, pandas and polars read it; appending
a part leaves the others untouched. Which parts count is said by `store.json`, in one atomic write.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fungistore.location import is_inline, is_there, locate
from fungistore.remote.urls import is_url
from fungistore.sources.batches import CELL
from fungistore.sources.cells import cell_type, cells_as
from fungistore.sources.sample import OF_TABLE, Cell, CellType
from fungistore.store.census import Census
from fungistore.store.columns import cells_in, columns_in, joined_columns
from fungistore.store.disk_errors import damage_explained
from fungistore.store.folder import Folder
from fungistore.store.plain import Terms

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
ROWS_LOOKED_FOR = 4  # of a part, to see whether its samples are at another root: some may be gone
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
        origin: which of the sources with that root has listed all of its rows; "" if none that
            lists all that there is.
    """

    file: str
    rows: int
    root: str
    checksum: str | None
    origin: str = ""

    def stops(self, first: int) -> list[int]:
        """Return the row after each of its row groups, from its own first row."""
        return [
            first + min(n + ROWS_PER_GROUP, self.rows) for n in range(0, self.rows, ROWS_PER_GROUP)
        ]


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
            with self.open(part) as file:
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
            with self.open(part) as file:
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
            with self.open(part) as file:
                yield from file.iter_batches(ROWS_PER_GROUP, columns=list(columns))

    def soon(self) -> None:
        """Begin to fetch the files, within the backend's `once`."""
        if self.parts:
            self.folder.soon("local_path", *(part.file for part in self.parts))

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

    def cells(self, name: str) -> list[Cell]:
        """Return every row's cell of one of `columns()`; parts without it have none."""
        kinds = {name: self.columns()[name]}
        found: list[Cell] = []
        for part in self.parts:
            with self.open(part) as file:
                if name not in columns_in(file.schema_arrow):
                    found += [None] * part.rows
                    continue
                for batch in file.iter_batches(ROWS_PER_GROUP, columns=[CELL + name]):
                    found += cells_in(batch, kinds)[0].to_pylist()
        return found

    def tables(self) -> Iterator[tuple[Part, pa.Table]]:
        """Yield each part with all of its columns."""
        for part in self.parts:
            with self.open(part) as file:
                yield part, file.read()

    def _columns_of(self, part: Part) -> dict[str, CellType]:
        with self.open(part) as file:
            return columns_in(file.schema_arrow)

    def firsts(self) -> Iterator[tuple[Part, int]]:
        """Yield each part with its first row."""
        first = 0
        for part in self.parts:
            yield part, first
            first += part.rows

    def plain(self, terms: Terms) -> Iterator[pa.RecordBatch]:
        """Yield what a listing compares of all rows, in their order."""
        cells = [CELL + name for name in terms.kinds]
        for part in self.parts:
            with self.open(part) as file:
                present = {*SCHEMA.names[1:], *cells} & set(file.schema_arrow.names)
                for batch in file.iter_batches(ROWS_PER_GROUP, columns=sorted(present)):
                    yield terms.stored(batch)

    def append(
        self,
        batches: Iterable[pa.RecordBatch],
        root: str,
        origin: str,
        schema: pa.Schema,
        census: Census,
    ) -> Part | None:
        """Write the samples that the table lacks as a new part, which the caller then commits.

        Streams: memory is some twenty bytes a sample, whatever the source.

        Args:
            batches: of a source; see `fungistore.sources.batches`.
            root: of the source.
            origin: of the source.
            schema: of the new part.
            census: of this table; it has counted the whole source afterwards.

        Raises:
            UsageError: two samples have the same id.
        """
        fresh = _grouped(census.new_samples(batches))
        first = next(fresh, None)
        if first is None:
            census.refuse_duplicates(None)
            return None
        name = f"part-{len(self.parts):05d}.parquet"

        def write(temporary: Path) -> None:
            row = len(self)
            with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
                for plain in chain([first], fresh):
                    writer.write_table(_as_part(plain, row, schema), ROWS_PER_GROUP)
                    row += len(plain)
            census.refuse_duplicates(temporary)

        self.folder.publish_file(name, write)
        with self.removed_on_error(name):
            return Part(name, census.added, root, self.folder.digest(name), origin)

    @contextmanager
    def removed_on_error(self, name: str | None) -> Iterator[None]:
        """Remove a new part, if there is one, where something fails before it is committed."""
        try:
            yield
        except BaseException:
            if name is not None:
                self.folder.remove(name)
            raise

    def sealed(self, part: Part) -> Part:
        """Return a part with the checksum of its file."""
        return replace(part, checksum=self.folder.digest(part.file))

    def moved(self, root: str, seen: Rows) -> list[Part]:
        """Return the parts, those with another root whose own is gone and whose samples are there.

        A table's own is gone as well where the table has left it, with all of its items.

        A root behind another user's folder, which may not be looked at, is as good as gone.

        Args:
            root: of a source.
            seen: rows that it has, ascending: they are looked for, and the part's first row.
        """
        return [self._moved(part, first, root, seen) for part, first in self.firsts()]

    def _moved(self, part: Part, first: int, root: str, seen: Rows) -> Part:
        if part.root == root:
            return part
        is_left = False
        with suppress(OSError if is_url(part.root) else PermissionError):
            is_left = is_there(part.root)
            if is_left and not _table_has_left(part, root):
                return part
        own = seen[slice(*np.searchsorted(seen, (first, first + part.rows)))]
        some = [*own[:: max(1, len(own) // ROWS_LOOKED_FOR)], first][: part.rows]
        uris = [row["uri"] for row in self.take(some)]
        if is_left and any(locate(part.root, u).exists() for u in uris if not is_inline(u)):
            return part
        is_moved = any(locate(root, uri).exists() for uri in uris)
        return replace(part, root=root) if is_moved else part

    @contextmanager
    def open(self, part: Part) -> Iterator[pq.ParquetFile]:
        """Open a part's file; what is wrong with it is explained."""
        what = "a part of the sample table is missing or damaged"
        with (
            damage_explained(what, self.folder.where(part.file)),
            pq.ParquetFile(self.folder.local_path(part.file)) as file,
        ):
            yield file


def _table_has_left(part: Part, root: str) -> bool:
    """Whether the table of a part is at another root instead of its own."""
    name = part.origin.removeprefix(OF_TABLE)
    own, new = (os.path.join(one, name) for one in (part.root, root))
    return part.origin.startswith(OF_TABLE) and not is_there(own) and is_there(new)


def _grouped(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield the rows of some batches as whole row groups, and what is left."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch)
        if count >= ROWS_PER_GROUP:
            table = pa.Table.from_batches(waiting)
            whole = count - count % ROWS_PER_GROUP
            yield table.slice(0, whole)
            waiting, count = table.slice(whole).to_batches(), count - whole
    if count:
        yield pa.Table.from_batches(waiting)


def _as_part(plain: pa.Table, row: int, schema: pa.Schema) -> pa.Table:
    """Return plain rows as those of a part, from some row on."""
    columns = {"row": pa.array(np.arange(row, row + len(plain)))}
    for field in list(schema)[1:]:
        columns[field.name] = _as_stored(plain[field.name].combine_chunks(), field.type)
    return pa.table(columns, schema=schema)


def _as_stored(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return column.dictionary_encode()
    if pa.types.is_timestamp(kind):
        return column.cast(kind)
    return column if column.type == kind else cells_as(column, cell_type(kind) or "text")
