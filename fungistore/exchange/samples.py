"""Who the rows of imported files are: a source of samples, from a table, or from row numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, repeat
from pathlib import Path

import pyarrow as pa

from fungistore.errors import UsageError
from fungistore.exchange.formats import FeatureFile
from fungistore.exchange.table import ROWS, ColumnNames, read_table
from fungistore.location import locate
from fungistore.quantities import counted
from fungistore.remote.places import joined
from fungistore.sources.labels import known_split, sort_label_names, split_name
from fungistore.sources.sample import Sample

LAST_WORD = re.compile(r"(?:.*[^A-Za-z])?([A-Za-z]+)")


@dataclass(frozen=True)
class RowNames:
    """What is known about some consecutive rows.

    Attributes:
        where: the file that says it.
        root: the folder that its paths start from.
        rows: how many there have to be.
        split: of rows that name none.
        texts: yields columns of text about them; None where nothing is known.
        label_names: in the order of their numbers, where the file has that.
    """

    where: str
    root: str
    rows: int
    split: str | None
    texts: Callable[[], Iterator[pa.Table]] | None
    label_names: tuple[str, ...] = ()


class ImportedSamples:
    """The rows of imported files as a `Source`; ids without a name are the rows' numbers.

    A row's id is its `id`, else its `path`; without either it is the row's number in its file,
    below the file's split, such as "train/00000007". Its uri is its path, else its id.

    Raises while iterating:
        UsageError: rows and ids differ in number, or a row has no id.
    """

    def __init__(self, parts: Sequence[RowNames]) -> None:
        self._parts = parts
        self.root = parts[0].root

    def remarks(self) -> list[str]:
        """Return what was made up, since the files do not say it, for the user to know."""
        said = []
        for part in self._parts:
            columns = next(part.texts(), pa.table({})).column_names if part.texts else []
            if not {"id", "path"} & set(columns):
                said.append(f"{part.where} has no ids: rows are named by their numbers")
            if part.split and "split" not in columns:
                said.append(f"{part.where}: the split is {part.split!r}, from the file's name")
        return said

    def label_names(self) -> list[str]:
        """Return the class names: as the files order them, then those that they do not list."""
        listed = [name for part in self._parts for name in part.label_names]
        seen: set[str] = set()
        for part in self._parts:
            for table in part.texts() if part.texts else ():
                names = table["label"].unique().to_pylist() if "label" in table.column_names else ()
                seen.update(name for name in names if name)
        return list(dict.fromkeys([*listed, *sort_label_names(seen - set(listed))]))

    def ids(self) -> Iterator[str]:
        """Yield the ids alone; no file that a path names is looked at."""
        for part in self._parts:
            for sample_id, _, _, _ in _rows(part):
                yield sample_id

    def __iter__(self) -> Iterator[Sample]:
        for part in self._parts:
            for sample_id, path, label, split in _rows(part):
                size = mtime = None
                if path:
                    size, mtime = locate(part.root, path).measure()
                    path = path if part.root == self.root else joined(part.root, path)
                yield Sample(sample_id, path or sample_id, label, split, size, mtime)


def name_rows(
    files: Sequence[FeatureFile], table: Path | None, names: ColumnNames
) -> ImportedSamples:
    """Find out what is known about the rows of some files.

    Args:
        files: the files, whose rows follow each other.
        table: says it for all of them; default: each file itself, or the table beside it.
        names: the columns to read.

    Raises:
        UsageError: columns were named, but there is no table to find them in.
    """
    if table is not None:
        where, root = str(table), str(table.absolute().parent)
        rows = sum(file.rows for file in files)
        split = split_of(files[0].path) if len(files) == 1 else None
        parts = [RowNames(where, root, rows, split, lambda: read_table(table, names))]
        return ImportedSamples(parts)
    parts = []
    for file in files:
        if not file.has_samples:
            names.find([], file.path)  # raises if a column was asked for
        parts.append(
            RowNames(
                where=str(file.path),
                root=str(file.path.absolute().parent),
                rows=file.rows,
                split=split_of(file.path),
                texts=file.samples if file.has_samples else None,
                label_names=tuple(file.provenance.get("label_names", ())),
            )
        )
    return ImportedSamples(parts)


def split_of(path: Path) -> str | None:
    """Return the split that a file's name ends with, as in train.h5 or kl-train.h5; else None."""
    word = LAST_WORD.fullmatch(path.stem)
    return known_split(word[1]) if word else None


def _rows(part: RowNames) -> Iterator[tuple[str, str | None, str | None, str | None]]:
    """Yield (id, path, label, split) of each row."""
    prefix = f"{part.split}/" if part.split else ""
    found = 0
    for table in part.texts() if part.texts else _numbers(part.rows):
        there = table.column_names
        has_names, has_splits = bool({"id", "path"} & set(there)), "split" in there
        columns = (
            table[name].to_pylist() if name in there else repeat(None, len(table))
            for name in ("id", "path", "label", "split")
        )
        for row, sample_id, path, label, split in zip(count(found), *columns, strict=False):
            name = sample_id or path
            if not name and has_names:
                raise UsageError(
                    "a row has no id",
                    where=f"{part.where}, row {row}",
                    hint="fill in the cell, or name another column with --ids",
                )
            split = split_name(split) if has_splits else part.split
            yield name or f"{prefix}{row:08d}", path or None, label or None, split
        found += len(table)
        if found > part.rows:
            break
    if found != part.rows:
        raise UsageError(
            "the number of ids differs from the number of vectors",
            where=part.where,
            expected=counted(part.rows, "row"),
            found=f"{counted(found, 'row')}{' or more' if found > part.rows else ''}",
            hint="name the table that belongs to the vectors with --table",
        )


def _numbers(rows: int) -> Iterator[pa.Table]:
    """Yield tables without a word in them."""
    for start in range(0, rows, ROWS):
        yield pa.table({"label": pa.nulls(min(ROWS, rows - start), pa.string())})
