"""A .csv, .jsonl or .parquet manifest: one row per item, with its path, label, split and id."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fungistore.errors import UsageError
from fungistore.fingerprint import digest_bytes
from fungistore.location import Location, contained_uri, inline_uri, mark_of
from fungistore.modalities.modality import Modality, has_spans
from fungistore.remote.places import absolute, name_of, parent
from fungistore.sources.batches import CELL, columns_schema, samples_in
from fungistore.sources.cells import cell_column, cell_type, types_of_texts
from fungistore.sources.delimited import DelimitedFile
from fungistore.sources.headers import LABEL, SPLIT
from fungistore.sources.json_lines import SUFFIXES
from fungistore.sources.labels import sort_label_names
from fungistore.sources.long_cells import cut
from fungistore.sources.measuring import measure
from fungistore.sources.rows import ITEM, UNREADABLE, Columns, ItemRows, unreadable
from fungistore.sources.sample import OF_TABLE, CellType, Sample
from fungistore.sources.signed_urls import secrets_remark, without_secrets
from fungistore.sources.spans import not_of_seconds, span_columns, spans_remark, with_spans

TABLE = "table"  # the kind of container that finds cells of text tables again
Far = Callable[[int], str]  # from a row of the manifest to the uri of its item
NO_COLUMNS: Mapping[str, CellType] = MappingProxyType({})

TABLES = (".csv", ".tsv", ".parquet", *SUFFIXES)
MOST_INLINE = 1 << 12  # bytes of an item: longer ones are found again in the manifest
_KEY = "S32"  # a digest in hexadecimal digits: 32 bytes a row while repeats are looked for


class TableReader:
    """A manifest: a table with one row an item."""

    summary = "a .csv, .jsonl or .parquet manifest"

    def recognises(self, path: str, modality: Modality) -> bool:
        """Whether it is a file whose name ends so."""
        return path.lower().endswith(TABLES) and os.path.isfile(path)

    def open(self, path: str, modality: Modality) -> ManifestSource:
        """Return the source; see `ManifestSource`."""
        return ManifestSource(path, modality.columns, spans=has_spans(modality))


class ManifestSource:
    """The rows of a manifest, in its order; its other columns are cells of the samples.

    A path is relative to the manifest's folder unless absolute, and may be any uri that another
    source gave its samples (`fungistore.location`). The id is the path as written unless
    there is an `id` column. A missing file is a sample without size and mtime. Empty cells of
    label, split and id mean that it is not known. Parquet labels and ids may be integers.

    A manifest with an inline column needs no paths: its cells, text or bytes, are the items, and a
    path counts only where the cell is empty. Without an `id`, an inline item is named by the digest
    of its content, the second of the same content by that digest and `-2`, and so on: so rows may
    come and go, and the others keep their names. An empty one is a sample that cannot be read.
    One of more than MOST_INLINE bytes is found again in the manifest, so that the store's table
    stays small. All but Parquet's are cut at some MiB (`fungistore.sources.long_cells`).

    Other columns keep their types: text, numbers and truth values. Times are text; columns of
    bytes, lists and spans of time are left out, and so are those that two share a name or that are
    not UTF-8. A CSV column's type is the first of bool, int and float that all of its cells have
    that are not empty and that holds their digits, else text. One of empty cells alone has none,
    and takes that of later ones.

    Args:
        path: the manifest.
        inline: names of columns whose cells are items, as a modality has them; the first one that
            the manifest has is taken.
        columns: of the manifest; default: as its name tells.
        container: the kind of container that finds long items again; None where none does.
            Default: as its name tells.
        spans: the items last, and columns `start` and `end` say which part of its file one is.

    Raises while iterating or asked for label names:
        UsageError: the file is malformed, has neither a `path` nor an inline column, or an empty
            path.
    """

    def __init__(
        self,
        path: str,
        inline: Sequence[str] = (),
        columns: Columns | None = None,
        container: str | None = "",
        *,
        spans: bool = False,
    ) -> None:
        self.path = absolute(path)
        self.root = parent(self.path)
        self.inline = inline
        self._has_spans = spans
        self._rows = ItemRows(self.path, inline, columns)
        is_parquet = self.path.lower().endswith(".parquet")
        self._container = ("parquet" if is_parquet else TABLE) if container == "" else container
        self.origin = OF_TABLE + name_of(self.path)
        self._secrets = 0

    def label_names(self) -> list[str]:
        """Read the label column once, in bounded memory."""
        names: set[str] = set()
        for batch in self._batches():
            names.update(filter(None, _texts(batch, "label").unique().to_pylist()))
        return sort_label_names(names)

    def knows(self) -> set[str]:
        """Return for which of labels and splits there is a column: an empty cell empties it."""
        with self._explained():
            return {LABEL, SPLIT} & self._rows.roles.of.keys()

    def columns(self) -> dict[str, CellType]:
        """Return the types of the columns that are kept beside those of every sample."""
        return self._kept

    def remarks(self) -> list[str]:
        """Return which columns were taken where there was a choice, and why others are not."""
        with self._explained():
            taken = self._rows.roles.remarks()
            items = self._rows.items
        if len(items) > 1:
            others = " or ".join(map(repr, items[1:]))
            taken = [f"the {self.inline[0]} is column {items[0]!r}, not {others}", *taken]
        left_out = [name for name in self._others if name not in self._kept]
        listed = ", ".join(map(repr, left_out))
        why = "text in UTF-8, numbers, truth values and times are, under a name of their own"
        said = f"columns of the manifest that are not kept: {listed}; {why}"
        spans = [spans_remark(self._spans)] if self._spans else []
        taken += [secrets_remark(self._secrets)] if self._secrets else []
        return taken + spans + ([said] if left_out else [])

    def ignored(self) -> dict[str, int]:
        """Return the columns that are left out."""
        return {f'column "{name}"': 1 for name in self._others if name not in self._kept}

    @cached_property
    def _others(self) -> dict[str, CellType | None]:
        """The types of all further columns; None of those that are not kept."""
        with self._explained():
            names, columns = self._rows.others, self._rows.columns
            once = [name for name in names if columns.names.count(name) == 1]
            types: dict[str, CellType | None]
            if isinstance(columns, DelimitedFile):
                texts = self._rows.texts(once) if once else ()
                types = {**types_of_texts(texts, once, columns.decimal)}
            else:
                types = {name: cell_type(columns.type_of(name)) for name in once}
            return {name: types.get(name) for name in names}

    @cached_property
    def _kept(self) -> dict[str, CellType]:
        return {name: kind for name, kind in self._others.items() if kind is not None}

    @cached_property
    def _spans(self) -> dict[str, str]:
        """The columns of starts and ends, where items have spans.

        Raises:
            UsageError: one has something else.
        """
        found = span_columns(self._others) if self._has_spans else {}
        odd = next((name for name in found.values() if name not in self._kept), None)
        if odd is not None:
            raise not_of_seconds(self.path, odd)
        return found

    def __iter__(self) -> Iterator[Sample]:
        return samples_in(self.batches())

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the samples as columns; see `fungistore.sources.batches`."""
        row, schema, self._secrets = 0, columns_schema(self._kept), 0
        repeated = self._repeated() if self.inline else frozenset()
        far = self._far()
        seen: Counter[str] = Counter()
        decimal = self._rows.columns.decimal
        for batch in self._batches(self._kept):
            uris, ids = _filled(_texts(batch, "path")), _empty_as_null(_texts(batch, "id"))
            uris, found = without_secrets(uris)
            self._secrets += found
            if ITEM in batch.schema.names:
                uris, ids = _inlined(_contents(batch), uris, ids, repeated, seen, far, row)
            if self._spans:
                cells = {
                    name: cell_column(batch.column(CELL + name), self._kept[name], decimal)
                    for name in self._spans.values()
                }
                uris = with_spans(uris, self._spans, cells, self.path, row)
            if uris.null_count:
                missing = uris.is_null().index(True).as_py()
                raise UsageError(
                    "a row has no path",
                    where=f"{self.path}, row {row + missing + 1}",
                    hint="fill in the cell, or remove the row",
                )
            sizes, times = measure(self.root, uris)
            arrays = [
                pc.coalesce(ids, uris),
                uris,
                _texts(batch, "label").dictionary_encode(),
                _texts(batch, "split").dictionary_encode(),
                sizes,
                times,
                *(
                    cell_column(batch.column(CELL + name), kind, decimal)
                    for name, kind in self._kept.items()
                ),
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)
            row += len(batch)

    def _far(self) -> Far | None:
        """Return how the item of a row is spelled that is too long for the store's table."""
        kind, column = self._container, self._rows.item
        if kind is None or column is None or self._rows.columns.has_blanks:
            return None
        size, _ = Location(self.path).measure()
        file, mark = name_of(self.path), mark_of(self.path)
        return lambda row: contained_uri(file, kind, f"{column},{row}", size or 0, mark)

    def _repeated(self) -> frozenset[str]:
        """Return the digests of items that more than one row without an id has."""
        keys = [np.zeros(0, _KEY)]
        for batch in self._batches():
            if ITEM in batch.schema.names:
                pairs = zip(_contents(batch), _texts(batch, "id").to_pylist(), strict=True)
                own = [digest_bytes(item) for item, id_ in pairs if not id_]
                keys.append(np.array(own, _KEY))
        digests, counts = np.unique(np.concatenate(keys), return_counts=True)
        return frozenset(digest.decode() for digest in digests[counts > 1].tolist())

    def _batches(self, kept: Mapping[str, CellType] = NO_COLUMNS) -> Iterator[pa.RecordBatch]:
        """Yield the columns that have a role, ITEM, and others, whose names begin with CELL."""
        with self._explained():
            yield from self._rows.batches(kept)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (*UNREADABLE, OSError) as error:
            raise unreadable("the manifest cannot be read", self.path, error) from error


def _named(item: bytes, repeated: Collection[str], seen: Counter[str]) -> str:
    """Return the id of an item without one; `seen` counts those that are there twice."""
    digest = digest_bytes(item)
    if digest in repeated:
        seen[digest] += 1
    return f"{digest}-{seen[digest]}" if seen[digest] > 1 else digest


def _texts(batch: pa.RecordBatch, name: str) -> pa.Array:
    """Return a column as text; one that is absent is all None."""
    if name not in batch.schema.names:
        return pa.nulls(len(batch), pa.string())
    return batch.column(name)


def _empty_as_null(texts: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _filled(texts: pa.Array) -> pa.Array:
    """Return paths; those of nothing but blanks are none."""
    is_blank = pc.equal(pc.utf8_trim_whitespace(texts), "")
    return pc.if_else(is_blank, pa.scalar(None, pa.string()), texts)


def _inlined(
    items: Sequence[bytes],
    paths: pa.Array,
    ids: pa.Array,
    repeated: Collection[str],
    seen: Counter[str],
    far: Far | None,
    first: int,
) -> tuple[pa.Array, pa.Array]:
    """Return uris and ids of rows whose items stand in the table itself where they have one."""
    uris, names = paths.to_pylist(), ids.to_pylist()
    for place, item in enumerate(items):
        if item or uris[place] is None:
            is_far = far is not None and len(item) > MOST_INLINE
            uris[place] = far(first + place) if far and is_far else inline_uri(item)
            names[place] = names[place] or _named(item, repeated, seen)
    return pa.array(uris, pa.string()), pa.array(names, pa.string())


def _contents(batch: pa.RecordBatch) -> list[bytes]:
    column = batch.column(ITEM)
    if pa.types.is_dictionary(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    return [cut(item or b"") for item in column.cast(pa.binary()).to_pylist()]
