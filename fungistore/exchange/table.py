"""Words about rows from a .csv, .parquet or .txt file: id, path, label and split, as text."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fungistore.errors import UsageError, did_you_mean
from fungistore.exchange.formats import refuse_missing_file
from fungistore.sources.delimited import DelimitedFile
from fungistore.sources.headers import NAMES, is_word, plain_header
from fungistore.sources.labels import class_names
from fungistore.sources.rows import UNREADABLE, unreadable
from fungistore.text import path_lines

ROWS = 16_384
TEXTS = ("id", "path", "label", "split")
# What this program's own exports call them; others' names are those of a manifest's columns.
USUAL: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "ids"),
    "path": ("path",),
    "label": ("label_name", "targets", "label", "labels"),
    "split": ("split", "splits"),
}


@dataclass(frozen=True)
class ColumnNames:
    """Which columns, or data sets, say what; None: the usual names, where they are there."""

    ids: str | None = None
    labels: str | None = None
    splits: str | None = None

    def find(
        self, present: list[str], where: object, words: Collection[str] | None = None
    ) -> dict[str, str]:
        """Return the column of each of `TEXTS` that is there.

        Args:
            present: the columns.
            where: the file, for errors.
            words: those of them that are text or integers; default: all.

        Raises:
            UsageError: one that was named is not there.
        """
        flags = {"id": ("--ids", self.ids), "label": ("--labels", self.labels)}
        flags["split"] = ("--splits", self.splits)
        plain: dict[str, str] = {}
        for name in present:
            if words is None or name in words:
                plain.setdefault(plain_header(name), name)
        found: dict[str, str] = {}
        for text in TEXTS:
            flag, named = flags.get(text, ("", None))
            if named is not None and named not in present:
                raise UsageError(
                    f"there is no column {named!r}",
                    where=f"{where}, {flag}",
                    expected=f"one of {', '.join(present) or '(none)'}",
                    hint=did_you_mean(named, present) or "leave the flag out to have it found",
                )
            usual = [name for name in USUAL[text] if name in present]
            others = [plain[one] for one in NAMES[text] if one in plain]
            candidates = [*usual, *(name for name in others if name not in found.values())]
            if named is not None or candidates:
                found[text] = named if named is not None else candidates[0]
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
    readers[".tsv"] = _read_csv
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            "the table's name does not tell its format",
            where=f"--table {path}",
            expected="a name that ends in .csv, .tsv, .parquet or .txt",
            hint="save it as .csv, with a header line; a .txt has one id a line",
        )
    try:
        yield from reader(path, names)
    except (*UNREADABLE, OSError) as error:
        raise unreadable("the table cannot be read", path, error) from error


def read_parquet_table(path: Path, names: ColumnNames) -> Iterator[pa.Table]:
    """Yield the rows of a Parquet file as `read_table` does."""
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        words = [field.name for field in schema if is_word(field.type)]
        columns = names.find(schema.names, path, words)
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
        if not (is_word(column.type) or pa.types.is_null(column.type)):
            raise UsageError(
                f"the column of {text}s is not text",
                where=f"{where}, column {name}",
                expected="text, or integers",
                found=column.type,
                hint="convert the column, or name another with --ids, --labels or --splits",
            )
        column = column.cast(pa.string())
        found[text] = class_names(column) if text == "label" else column
    return pa.table(found)


def _read_csv(path: Path, names: ColumnNames) -> Iterator[pa.Table]:
    file = DelimitedFile(path)
    columns = names.find(file.names, path)
    wanted = dict.fromkeys(columns.values(), pa.string())
    if not wanted:
        texts(pa.table({}), columns, path)  # raises
    for batch in file.batches(wanted):
        if file.has_blanks:
            trimmed = [pc.utf8_trim_whitespace(column) for column in batch.columns]
            batch = pa.record_batch(trimmed, batch.schema.names)
        yield texts(batch, columns, path)


def _read_lines(path: Path, names: ColumnNames) -> Iterator[pa.Table]:
    ColumnNames(None, names.labels, names.splits).find([], path)
    with path.open("rb") as file:
        lines = path_lines(file)
        while some := [line.decode() for line in islice(lines, ROWS)]:
            yield texts(pa.table({"id": pa.array(some)}), {"id": "id"}, path)
