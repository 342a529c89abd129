"""A .csv or .parquet manifest: one row per item, `path` and if known `label`, `split`, `id`."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as parquet

from fungistore.errors import UsageError
from fungistore.fingerprint import digest_bytes
from fungistore.location import inline_uri
from fungistore.modalities.modality import Modality
from fungistore.sources.batches import BATCH_ROWS, columns_schema, samples_in
from fungistore.sources.cells import cell_column, cell_type, types_of_texts
from fungistore.sources.labels import SPLIT_NAMES, sort_label_names
from fungistore.sources.measuring import measure
from fungistore.sources.sample import CellType, Sample

COLUMNS = ("path", "label", "split", "id")
NO_COLUMNS: Mapping[str, CellType] = MappingProxyType({})
# One thread, because only then do Arrow's messages name the row.
_CSV_READ = csv.ReadOptions(use_threads=False)
_CSV_PARSE = csv.ParseOptions(newlines_in_values=True)

_KEY = "S32"  # a digest in hexadecimal digits: 32 bytes a row while repeats are looked for


class TableReader:
    """A manifest: a table with one row an item."""

    summary = "a .csv or .parquet manifest"

    def recognises(self, path: str, modality: Modality) -> bool:
        """Whether it is a file whose name ends so."""
        return path.lower().endswith((".csv", ".parquet")) and os.path.isfile(path)

    def open(self, path: str, modality: Modality) -> ManifestSource:
        """Return the source; see `ManifestSource`."""
        return ManifestSource(path, modality.columns)


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

    Other columns keep their types: text, numbers and truth values. Times are text; columns of
    bytes, lists and spans of time are left out, and so are those that two share a name or that are
    not UTF-8. A CSV column's type is the first of bool, int and float that all of its cells have
    that are not empty and that holds their digits, else text. One of empty cells alone has none,
    and takes that of later ones.

    Args:
        path: the manifest.
        inline: names of columns whose cells are items, as a modality has them; the first one that
            the manifest has is taken.

    Raises while iterating or asked for label names:
        UsageError: the file is malformed, has neither a `path` nor an inline column, or an empty
            path.
    """

    def __init__(self, path: str, inline: Sequence[str] = ()) -> None:
        self.path = str(Path(path).absolute())
        self.root = str(Path(self.path).parent)
        self._inline = inline

    def label_names(self) -> list[str]:
        """Read the label column once, in bounded memory."""
        names: set[str] = set()
        for batch, _ in self._batches():
            names.update(filter(None, _texts(batch, "label").unique().to_pylist()))
        return sort_label_names(names)

    def knows(self) -> set[str]:
        """Return for which of labels and splits there is a column: an empty cell empties it."""
        with self._explained():
            if not self._is_parquet:
                return {"label", "split"} & set(_csv_header(self.path))
            with parquet.ParquetFile(self.path) as file:
                return {"label", "split"} & set(file.schema_arrow.names)

    def columns(self) -> dict[str, CellType]:
        """Return the types of the columns that are kept beside those of every sample."""
        return self._kept

    def remarks(self) -> list[str]:
        """Return which columns are left out."""
        left_out = [name for name in self._others if name not in self._kept]
        listed = ", ".join(map(repr, left_out))
        why = "text in UTF-8, numbers, truth values and times are, under a name of their own"
        said = f"columns of the manifest that are not kept: {listed}; {why}"
        return [said] if left_out else []

    @cached_property
    def _others(self) -> dict[str, CellType | None]:
        """The types of all further columns; None of those that are not kept."""
        with self._explained():
            if not self._is_parquet:
                return dict(_types_in_csv(self.path, self._inline))
            with parquet.ParquetFile(self.path) as file:
                schema = file.schema_arrow
                names = _other_columns(self.path, schema.names, self._inline)
                return {
                    name: cell_type(schema.field(name).type) if names.count(name) == 1 else None
                    for name in names
                }

    @cached_property
    def _kept(self) -> dict[str, CellType]:
        return {name: kind for name, kind in self._others.items() if kind is not None}

    @property
    def _is_parquet(self) -> bool:
        return self.path.lower().endswith(".parquet")

    def __iter__(self) -> Iterator[Sample]:
        return samples_in(self.batches())

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the samples as columns; see `fungistore.sources.batches`."""
        row, schema = 0, columns_schema(self._kept)
        repeated = self._repeated() if self._inline else frozenset()
        seen: Counter[str] = Counter()
        for batch, inline in self._batches(self._kept):
            uris, ids = _filled(_texts(batch, "path")), _empty_as_null(_texts(batch, "id"))
            if inline is not None:
                uris, ids = _inlined(_contents(batch, inline), uris, ids, repeated, seen)
            if uris.null_count:
                missing = uris.is_null().index(True).as_py()
                raise UsageError("a row has no path", where=f"{self.path}, row {row + missing + 1}")
            sizes, times = measure(self.root, uris)
            arrays = [
                pc.coalesce(ids, uris),
                uris,
                _empty_as_null(_texts(batch, "label")).dictionary_encode(),
                _splits(_empty_as_null(_texts(batch, "split"))),
                sizes,
                times,
                *(cell_column(batch.column(name), kind) for name, kind in self._kept.items()),
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)
            row += len(batch)

    def _repeated(self) -> frozenset[str]:
        """Return the digests of items that more than one row without an id has."""
        keys = [np.zeros(0, _KEY)]
        for batch, inline in self._batches():
            if inline is not None:
                pairs = zip(_contents(batch, inline), _texts(batch, "id").to_pylist(), strict=True)
                own = [digest_bytes(item) for item, id_ in pairs if not id_]
                keys.append(np.array(own, _KEY))
        digests, counts = np.unique(np.concatenate(keys), return_counts=True)
        return frozenset(digest.decode() for digest in digests[counts > 1].tolist())

    def _batches(
        self, kept: Mapping[str, CellType] = NO_COLUMNS
    ) -> Iterator[tuple[pa.RecordBatch, str | None]]:
        """Yield the known columns that are there and some others, and which of them has items."""
        read = _read_parquet if self._is_parquet else _read_csv
        with self._explained():
            yield from read(self.path, self._inline, list(kept))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UsageError(
                "the manifest cannot be read",
                where=self.path,
                found=error,
                hint="CSV manifests are comma-separated UTF-8 with a header line",
            ) from error


def _named(item: bytes, repeated: Collection[str], seen: Counter[str]) -> str:
    """Return the id of an item without one; `seen` counts those that are there twice."""
    digest = digest_bytes(item)
    if digest in repeated:
        seen[digest] += 1
    return f"{digest}-{seen[digest]}" if seen[digest] > 1 else digest


def _read_csv(
    path: str, inline: Sequence[str], others: list[str]
) -> Iterator[tuple[Any, str | None]]:
    columns, item = _known_columns(path, _csv_header(path), inline)
    # Types are declared, not inferred: the label 007 and the id 1e5 stay as they are written.
    types = {name: pa.binary() if name == item else pa.string() for name in columns + others}
    for batch in _csv_batches(path, types):
        yield batch, item


def _types_in_csv(path: str, inline: Sequence[str]) -> dict[str, CellType | None]:
    """Return the types of further columns, in one pass in bounded memory."""
    names = _other_columns(path, _csv_header(path), inline)
    once = [name for name in names if names.count(name) == 1]
    batches = _csv_batches(path, dict.fromkeys(once, pa.binary())) if once else ()
    types = types_of_texts(batches, once)
    return {name: types.get(name) for name in names}


def _csv_header(path: str) -> list[str]:
    with csv.open_csv(path, _CSV_READ, _CSV_PARSE) as reader:
        names: list[str] = reader.schema.names
    return names


def _csv_batches(path: str, types: Mapping[str, pa.DataType]) -> Iterator[Any]:
    wanted = csv.ConvertOptions(include_columns=list(types), column_types=types)
    with csv.open_csv(path, _CSV_READ, _CSV_PARSE, wanted) as reader:
        yield from reader


def _read_parquet(
    path: str, inline: Sequence[str], others: list[str]
) -> Iterator[tuple[Any, str | None]]:
    with parquet.ParquetFile(path) as file:
        columns, item = _known_columns(path, file.schema_arrow.names, inline)
        for name in columns:
            _check_type(path, file.schema_arrow.field(name), is_item=name == item)
        for batch in file.iter_batches(BATCH_ROWS, columns=columns + others):
            yield batch, item


def _other_columns(path: str, found: list[str], inline: Sequence[str]) -> list[str]:
    """Return the columns that are neither known nor the inline one."""
    known, _ = _known_columns(path, found, inline)
    return [name for name in found if name not in known]


def _known_columns(
    path: str, found: list[str], inline: Sequence[str]
) -> tuple[list[str], str | None]:
    """Return the columns to read, and which of them is the inline one."""
    item = next((name for name in inline if name in found), None)
    known = [name for name in COLUMNS if name in found] + ([item] if item else [])
    if not {"path", item} & set(known) or any(found.count(name) > 1 for name in known):
        raise UsageError(
            "the manifest's columns cannot be used",
            where=path,
            expected=f"{' or '.join(f'`{name}`' for name in ('path', *inline))}, and if known "
            "`label`, `split` and `id`, each once",
            found=", ".join(found),
            hint="write it with commas between the columns (pandas: sep=',')"
            if len(found) == 1 and re.search("[;\t|]", found[0])
            else "rename the column that holds the files to `path`"
            + (f", or the one that holds the items to `{inline[0]}`" if inline else ""),
        )
    return known, item


def _check_type(path: str, field: Any, *, is_item: bool) -> None:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    number = pa.types.is_integer(kind) and field.name in ("label", "id")
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    content = is_item and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
    is_null = pa.types.is_null(kind)
    if not (text or number or content or pa.types.is_string_view(kind) or is_null):
        raise UsageError(
            "a column of the manifest has the wrong type",
            where=f"{path}, column {field.name}",
            expected="text or bytes" if is_item else "text (labels and ids may be integers)",
            found=field.type,
            hint="convert the column (pandas: astype('string') or astype('Int64'))",
        )


def _texts(batch: pa.RecordBatch, name: str) -> pa.Array:
    """Return a column as text; one that is absent is all None."""
    if name not in batch.schema.names:
        return pa.nulls(len(batch), pa.string())
    return batch.column(name).cast(pa.string())


def _empty_as_null(texts: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _filled(texts: pa.Array) -> pa.Array:
    """Return paths; those of nothing but blanks are none."""
    is_blank = pc.equal(pc.utf8_trim_whitespace(texts), "")
    return pc.if_else(is_blank, pa.scalar(None, pa.string()), texts)


def _splits(texts: pa.Array) -> pa.Array:
    """Return splits under the names that a store uses."""
    words = texts.dictionary_encode()
    names = [SPLIT_NAMES.get(name, name) for name in words.dictionary.to_pylist()]
    return pa.array(names, pa.string()).take(words.indices).dictionary_encode()


def _inlined(
    items: Sequence[bytes],
    paths: pa.Array,
    ids: pa.Array,
    repeated: Collection[str],
    seen: Counter[str],
) -> tuple[pa.Array, pa.Array]:
    """Return uris and ids of rows whose items stand in the table itself where they have one."""
    uris, names = paths.to_pylist(), ids.to_pylist()
    for place, item in enumerate(items):
        if item or uris[place] is None:
            uris[place] = inline_uri(item)
            names[place] = names[place] or _named(item, repeated, seen)
    return pa.array(uris, pa.string()), pa.array(names, pa.string())


def _contents(batch: pa.RecordBatch, inline: str) -> list[bytes]:
    column = batch.column(inline)
    if pa.types.is_dictionary(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    return [item or b"" for item in column.cast(pa.binary()).to_pylist()]
