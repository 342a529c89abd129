"""A .csv or .parquet manifest: one row per image, `path` and if known `label`, `split`, `id`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet

from fungistore.errors import UsageError
from fungistore.sources.labels import SPLIT_NAMES, sort_label_names
from fungistore.sources.location import locate
from fungistore.sources.sample import Sample

COLUMNS = ("path", "label", "split", "id")

# A parquet batch of this many rows of short strings is a few MB.
_BATCH_ROWS = 16_384


class ManifestSource:
    """The rows of a manifest, in its order; all other columns are ignored.

    A path is relative to the manifest's folder unless absolute, and may be any uri that another
    source gave its samples (`fungistore.sources.location`). The id is the path as written unless
    there is an `id` column. A missing file is a sample without size and mtime. Empty cells of
    label, split and id mean that it is not known. Parquet labels and ids may be integers.

    Raises while iterating or asked for label names:
        UsageError: the file is malformed, has no `path` column, or an empty path.
    """

    def __init__(self, path: str) -> None:
        self.path = str(Path(path).absolute())
        self.root = str(Path(self.path).parent)

    def label_names(self) -> list[str]:
        """Read the label column once, in bounded memory."""
        names: set[str] = set()
        for batch in self._batches():
            names.update(label for label in batch["label"] if label)
        return sort_label_names(names)

    def __iter__(self) -> Iterator[Sample]:
        row = 0
        for batch in self._batches():
            for path, label, split, id_ in zip(*(batch[name] for name in COLUMNS), strict=True):
                row += 1
                if not path or path.isspace():
                    raise UsageError("a row has no path", where=f"{self.path}, row {row}")
                size, mtime = locate(self.root, path).measure()
                split = SPLIT_NAMES.get(split, split) if split else None
                yield Sample(id_ or path, path, label or None, split, size, mtime)

    def _batches(self) -> Iterator[dict[str, list[str | None]]]:
        """Yield each batch as one list per column of COLUMNS; an absent column is all None."""
        read = _read_parquet if self.path.lower().endswith(".parquet") else _read_csv
        try:
            for batch in read(self.path):
                present = batch.schema.names
                yield {
                    name: _texts(batch.column(name)) if name in present else [None] * len(batch)
                    for name in COLUMNS
                }
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UsageError(
                "the manifest cannot be read",
                where=self.path,
                found=error,
                hint="CSV manifests are comma-separated UTF-8 with a header line",
            ) from error


def _read_csv(path: str) -> Iterator[Any]:
    # One thread, because only then do Arrow's messages name the row.
    read = csv.ReadOptions(use_threads=False)
    parse = csv.ParseOptions(newlines_in_values=True)
    with csv.open_csv(path, read, parse) as reader:
        columns = _known_columns(path, reader.schema.names)
    # Types are declared, not inferred: the label 007 and the id 1e5 stay as they are written.
    texts = csv.ConvertOptions(
        include_columns=columns, column_types=dict.fromkeys(columns, pa.string())
    )
    with csv.open_csv(path, read, parse, texts) as reader:
        yield from reader


def _read_parquet(path: str) -> Iterator[Any]:
    with parquet.ParquetFile(path) as file:
        columns = _known_columns(path, file.schema_arrow.names)
        for name in columns:
            _check_type(path, file.schema_arrow.field(name))
        yield from file.iter_batches(_BATCH_ROWS, columns=columns)


def _known_columns(path: str, found: list[str]) -> list[str]:
    known = [name for name in COLUMNS if name in found]
    if "path" not in known or any(found.count(name) > 1 for name in known):
        raise UsageError(
            "the manifest's columns cannot be used",
            where=path,
            expected="`path`, and if known `label`, `split` and `id`, each once",
            found=", ".join(found),
            hint="rename the column that holds the image files to `path`",
        )
    return known


def _check_type(path: str, field: Any) -> None:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    number = pa.types.is_integer(kind) and field.name in ("label", "id")
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (text or number or pa.types.is_string_view(kind) or pa.types.is_null(kind)):
        raise UsageError(
            "a column of the manifest has the wrong type",
            where=f"{path}, column {field.name}",
            expected="text (labels and ids may be integers)",
            found=field.type,
            hint="convert the column (pandas: astype('string') or astype('Int64'))",
        )


def _texts(column: Any) -> list[str | None]:
    texts: list[str | None] = column.cast(pa.string()).to_pylist()
    return texts
