"""What a source says of known rows that the table says otherwise, and the table mended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fungistore.location import LIVE, absolute_uri, locate, path_to_uri
from fungistore.sources.batches import CELL
from fungistore.store.columns import cells_in, columns_in, joined_columns, with_columns
from fungistore.store.plain import Terms, differ
from fungistore.store.samples import ROWS_PER_GROUP, SCHEMA, Part, Rows, SampleTable
from fungistore.store.spool import Spool

# why a row differs, as bits
CHANGED, MOVED, LABEL, SPLIT, CELLS, GONE, PLACED = 1, 2, 4, 8, 16, 32, 64
# what is known of an item at another place or time: nothing, that it is the same, that it is
# another, or that nothing was made of it, so that any place will do
UNSURE, SAME, OTHER, FREE = 0, 1, 2, 3
EXAMPLES = 3
ROWS_COMPARED = 16  # of those whose name, size and time agree, though the root is new
INLINE = "data:,"

Mask = NDArray[np.bool_]
# Tells of rows whose place, size or time is another whether the bytes are. The columns: row, uri,
# root, old_bytes (as the table has them), new_uri, bytes (as the source does).
SameContent = Callable[[pa.Table], NDArray[np.uint8]]


@dataclass(frozen=True)
class Differences:
    """Rows of which a source says something else.

    Attributes:
        rows: their numbers, ascending.
        why: CHANGED, MOVED (the same bytes), PLACED (of which nothing was made yet), LABEL, SPLIT,
            CELLS and GONE of each, 0 where nothing that counts differs. GONE is listed, but its
            file is not there any more.
        others: ids of rows whose file, below another root, is still there: the sample of this root
            is no newer version of it, but another item of that name. So is that of another dataset.
        relabelled: some of the labels, as "id: old -> new".
        resplit: some of the splits.
    """

    rows: Rows
    why: NDArray[np.uint8]
    others: tuple[str, ...] = ()
    relabelled: tuple[str, ...] = ()
    resplit: tuple[str, ...] = ()

    def count(self, reason: int) -> int:
        """Return how many rows differ for a reason."""
        return int(np.count_nonzero(self.why & reason))

    def rows_of(self, reasons: int) -> Rows:
        """Return the rows that differ for one of some reasons."""
        return self.rows[(self.why & reasons) != 0]


class Comparison:
    """A source's plain batches of known rows against the table.

    Args:
        table: the table.
        spool: what the source says.
        terms: what is compared.
        root: of the source.
        same_content: tells which rows have the same bytes at their new place.
    """

    def __init__(
        self,
        table: SampleTable,
        spool: Spool,
        terms: Terms,
        root: str,
        same_content: SameContent | None = None,
    ) -> None:
        self._table = table
        self._spool = spool
        self._terms = terms
        self._root = root
        self._same_content = same_content
        self._names = [*terms.labels]

    def differences(self) -> Differences:
        """Find out what differs."""
        rows = self._spool.rows()
        why = np.zeros(len(rows), np.uint8)
        others: list[str] = []
        said: dict[str, list[str]] = {"label": [], "split": []}
        done = 0
        for part, batch, now in self._touched():
            at = now["row"].to_numpy() - batch["row"][0].as_py()
            then = pa.Table.from_batches([self._terms.stored(batch.take(pa.array(at)))])
            own = why[done : done + len(now)]
            if self._terms.places:
                own |= self._places(part, then, now)
            for name, reason in (("label", LABEL), ("split", SPLIT)):
                if name in self._terms.knows:
                    is_other = _differ(then[name], now[name])
                    own[is_other] |= reason
                    said[name] += self._examples(name, then, now, is_other, len(said[name]))
            for name in self._terms.kinds:
                own[_differ(then[CELL + name], now[CELL + name])] |= CELLS
            others += self._others(part, then, now, (own & CHANGED) != 0)
            done += len(now)
        return Differences(rows, why, tuple(others), tuple(said["label"]), tuple(said["split"]))

    def _touched(self) -> Iterator[tuple[Part, pa.RecordBatch, pa.Table]]:
        """Yield the row groups that have some of the rows, and what the source says of these."""
        stops = [stop for part, first in self._table.firsts() for stop in part.stops(first)]
        stretches = self._spool.stretches(*stops)
        for part in self._table.parts:
            with self._table.open(part) as file:
                for number in range(file.num_row_groups):
                    if len(now := next(stretches)):
                        yield part, _group(file, number), now

    def _places(self, part: Part, then: pa.Table, now: pa.Table) -> NDArray[np.uint8]:
        is_later = _differ(then["bytes"], now["bytes"]) | _differ(then["mtime"], now["mtime"])
        is_elsewhere = _differ(then["uri"], now["uri"])
        for place in np.flatnonzero(is_elsewhere).tolist() if part.root != self._root else ():
            uris = then["uri"][place].as_py(), now["uri"][place].as_py()
            places = (
                absolute_uri(root, u) for root, u in zip((part.root, self._root), uris, strict=True)
            )
            is_elsewhere[place] = len(set(places)) > 1
        is_inline = _is_inline(then["uri"]) | _is_inline(now["uri"])
        is_gone = then["bytes"].is_valid().to_numpy() & now["bytes"].is_null().to_numpy()
        is_gone &= part.root == self._root
        is_changed = is_later | (is_inline & is_elsewhere)
        why = np.select([is_gone, is_changed], [GONE, CHANGED]).astype(np.uint8)
        at = np.flatnonzero((is_later | is_elsewhere) & ~is_gone)
        if self._same_content is not None and len(at):
            asked = now.select(["row", "bytes"]).append_column("new_uri", now["uri"])
            asked = asked.append_column("uri", then["uri"])
            asked = asked.append_column("old_bytes", then["bytes"])
            root = path_to_uri(part.root)  # it may not be UTF-8
            asked = asked.append_column("root", pa.array([root] * len(now)))
            verdicts = self._same_content(asked.take(pa.array(at)))
            for verdict, reason in ((SAME, MOVED), (OTHER, CHANGED), (FREE, PLACED)):
                why[at[verdicts == verdict]] = reason
        return why

    def _examples(
        self, name: str, then: pa.Table, now: pa.Table, is_other: Mask, have: int
    ) -> Iterator[str]:
        for place in np.flatnonzero(is_other)[: max(0, EXAMPLES - have)].tolist():
            words = [table[name][place].as_py() for table in (then, now)]
            if name == "label":
                words = [None if word is None else self._names[word] for word in words]
            old, new = ("none" if word is None else word for word in words)
            yield f"{now['id'][place].as_py()}: {old} -> {new}"

    def _others(self, part: Part, then: pa.Table, now: pa.Table, is_changed: Mask) -> Iterator[str]:
        is_other = is_changed if part.root != self._root else is_changed & _is_live(then["uri"])
        for place in np.flatnonzero(is_other).tolist():
            mine = locate(self._root, now["uri"][place].as_py())
            own = locate(part.root, then["uri"][place].as_py())
            if (own.path, own.content) != (mine.path, mine.content) and own.exists():
                yield then["id"][place].as_py()

    def disguised(self, rows: Rows) -> tuple[str, ...]:
        """Return the ids of items that are others, though name, size and time agree.

        Archives that are made reproducibly give all of their files one time, and bitmaps of one
        shape have one size. A few of the rows are looked at, since reading all would take long.
        """
        if self._same_content is None or not len(rows):
            return ()
        found = self._table.take(rows[:: -(-len(rows) // ROWS_COMPARED)])
        uris = pa.array([row["uri"] for row in found], pa.string())
        sizes = pa.array([row["bytes"] for row in found], pa.int64())
        asked = pa.table(
            {
                "row": pa.array([row["row"] for row in found], pa.int64()),
                "bytes": sizes,
                "new_uri": uris,
                "uri": uris,
                "old_bytes": sizes,
                "root": pa.array([path_to_uri(row["root"]) for row in found]),
            }
        )
        verdicts = self._same_content(asked)
        return tuple(row["id"] for row, one in zip(found, verdicts, strict=True) if one == OTHER)

    def refresh(self, part: Part, first: int, found: Differences, *, taken: int) -> None:
        """Replace a part's file by one with what the source says.

        Args:
            part: one of the table's, which the manifest must vouch for without a checksum
                meanwhile: a kill may leave the old file or the new one.
            first: row of the table.
            found: the differences.
            taken: reasons for which rows are taken over.
        """
        stops = [first, *part.stops(first)]
        stretches = self._spool.stretches(*stops)
        edges = np.searchsorted(found.rows, stops)
        next(stretches)  # what is before this part

        def write(temporary: Path) -> None:
            with self._table.open(part) as file:
                kinds = joined_columns([columns_in(file.schema_arrow), self._terms.kinds])
                schema = with_columns(SCHEMA, kinds)
                with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
                    for number, now in enumerate(stretches):
                        why = found.why[edges[number] : edges[number + 1]] & np.uint8(taken)
                        mended = self._mended(part, _group(file, number), now, why)
                        columns = [mended[name] for name in SCHEMA.names]
                        table = pa.table([*columns, *cells_in(mended, kinds)], schema=schema)
                        writer.write_table(table, ROWS_PER_GROUP)

        self._table.folder.publish_file(part.file, write)

    def _mended(
        self, part: Part, batch: pa.RecordBatch, now: pa.Table, why: NDArray[np.uint8]
    ) -> pa.RecordBatch:
        at = now["row"].to_numpy() - batch["row"][0].as_py()
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))

        def take_over(name: str, values: pa.ChunkedArray, reasons: int) -> None:
            places = np.flatnonzero(why & reasons)
            if len(places):
                old = columns[name]
                if pa.types.is_dictionary(old.type):
                    old = old.cast(pa.string())
                new = values.take(pa.array(places)).combine_chunks().cast(old.type)
                index = np.arange(len(old))
                index[at[places]] = len(old) + np.arange(len(new))
                columns[name] = pa.concat_arrays([old, new]).take(pa.array(index))

        uris = now["uri"]
        if part.root != self._root:
            texts = [absolute_uri(self._root, uri) for uri in uris.to_pylist()]
            uris = pa.chunked_array([pa.array(texts, pa.string())])
        for name, values in (("uri", uris), ("bytes", now["bytes"]), ("mtime", now["mtime"])):
            take_over(name, values, CHANGED | MOVED | PLACED)
        take_over("label", now["label"], LABEL)
        take_over("split", now["split"], SPLIT)
        if (why & CELLS).any():
            cells_of_all = cells_in(batch, self._terms.kinds)
            for name, cells in zip(self._terms.kinds, cells_of_all, strict=True):
                columns[CELL + name] = cells
                take_over(CELL + name, now[CELL + name], CELLS)
        columns["split"] = columns["split"].cast(pa.string()).dictionary_encode()
        return pa.RecordBatch.from_pydict(columns)


def _group(file: pq.ParquetFile, number: int) -> pa.RecordBatch:
    return file.read_row_group(number).combine_chunks().to_batches()[0]


def _differ(one: pa.ChunkedArray, other: pa.ChunkedArray) -> Mask:
    return differ(one.combine_chunks(), other.combine_chunks())


def _is_live(uris: pa.ChunkedArray) -> Mask:
    mask: Mask = pc.match_substring(uris, LIVE).to_numpy()
    return mask


def _is_inline(uris: pa.ChunkedArray) -> Mask:
    mask: Mask = pc.starts_with(uris, INLINE).to_numpy()
    return mask
