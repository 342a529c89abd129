"""Words about rows from a .csv, .parquet or .txt file: id, path, label and split, as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from fungistore.errors import UsageError
from fungistore.exchange.formats import refuse_missing_file

ROWS = 16_384
TEXTS = ("id", "path", "label", "split")


@dataclass(frozen=True)
class ColumnNames:
    """Which columns, or data sets, say what; None: the usual names, where they are there."""

    ids: str | None = None
    labels: str | None = None
    splits: str | None = None

    def find(self, present: list[str], where: object) -> dict[str, str]:
        """Return the column of each of `TEXTS` that is there.

        Raises:
            UsageError: one that was named is not there.
        """
        flags = {"id": ("--ids", self.ids), "label": ("--labels", self.labels)}
        flags["split"] = ("--splits", self.splits)
        usual = {"id": ("id", "ids"), "label": ("label_name", "targets", "label", "labels")}
        usual |= {"split": ("split", "splits"), "path": ("path",)}
        found = {}
        for text in TEXTS:
            flag, named = flags.get(text, ("", None))
            if named is not None and named not in present:
                raise UsageError(
                    f"there is no column {named!r}",
                    where=f"{where}, {flag}",
                    expected=f"one of {', '.join(present) or '(none)'}",
                )
            name = named or next((name for name in usual[text] if name in present), None)
            if name is not None:
                found[text] = name
        return found


def read_table(path: Path, names: ColumnNames) -> Iterator[pa.Table]:
    """Yield the rows of a table of samples, batch by batch, as columns of text named as `TEXTS`.

    Args:
        path: a .csv or .parquet file, or a .txt file of ids, one a line.
        names: the columns to read.

    Raises:
        UsageError: the file cannot be read, or lacks a column that was named.
    """
    refuse_missing_file(path)
    readers = {".csv": _read_csv, ".parquet": read_parquet_table, ".txt": _read_lines}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            "the table's name does not tell its format",
            where=f"--table {path}",
            expected="a name that ends in .csv, .parquet or .txt",
        )
    try:
        yield from reader(path, names)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise UsageError(
            "the table cannot be read",
            where=path,
            found=error,
            hint="CSV is comma-separated UTF-8 with a header line; .txt has one id a line",
        ) from error


def read_parquet_table(path: Path, names: ColumnNames) -> Iterator[pa.Table]:
    """Yield the rows of a Parquet file as `read_table` does."""
    with pq.ParquetFile(path) as file:
        columns = names.find(file.schema_arrow.names, path)
        for batch in file.iter_batches(ROWS, columns=list(dict.fromkeys(columns.values()))):
            yield texts(batch, columns, path)


def texts(columns: Any, names: dict[str, str], where: object) -> pa.Table:
    """Return the columns that are there as text, named as `TEXTS`.

    Args:
        columns: an Arrow table or batch.
        names: the column of each text, as `ColumnNames.find` gives them.
        where: the file, for errors.

    Raises:
        UsageError: a column is neither text nor integers, or none is there.
    """
    if not names:
        raise UsageError(
            "the table has none of the columns that are needed",
            where=where,
            expected="id or path, and if known label and split",
            hint="name the columns with --ids, --labels, --splits",
        )
    found = {}
    for text, name in names.items():
        column = columns.column(name)
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        is_text |= pa.types.is_string_view(kind) or pa.types.is_null(kind)
        if not (is_text or pa.types.is_integer(kind)):
            raise UsageError(
                f"the column of {text}s is not text",
                where=f"{where}, column {name}",
                expected="text, or integers",
                found=column.type,
                hint="convert the column, or name another with --ids, --labels or --splits",
            )
        found[text] = column.cast(pa.string())
    return pa.table(found)


def _read_csv(path: Path, names: ColumnNames) -> Iterator[pa.Table]:
    # One thread, because only then do Arrow's messages name the row.
    read = csv.ReadOptions(use_threads=False)
    parse = csv.ParseOptions(newlines_in_values=True)
    with csv.open_csv(path, read, parse) as reader:
        columns = names.find(reader.schema.names, path)
    wanted = list(dict.fromkeys(columns.values()))
    if not wanted:
        texts(pa.table({}), columns, path)  # raises
    # Types are declared, not inferred: the label 007 and the id 1e5 stay as they are written.
    convert = csv.ConvertOptions(
        include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string())
    )
    with csv.open_csv(path, read, parse, convert) as reader:
        for batch in reader:
            yield texts(batch, columns, path)


def _read_lines(path: Path, names: ColumnNames) -> Iterator[pa.Table]:
    ColumnNames(None, names.labels, names.splits).find([], path)
    with path.open(encoding="utf-8") as file:
        while lines := list(islice(file, ROWS)):
            ids = pa.array([line.removesuffix("\n") for line in lines])
            yield texts(pa.table({"id": ids}), {"id": "id"}, path)
