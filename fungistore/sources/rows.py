"""The rows of a .csv or .parquet table of items, whose columns have the names of their roles."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as parquet

from fungistore.errors import FungiError, UsageError
from fungistore.location import locate
from fungistore.modalities.fetching import unreachable
from fungistore.modalities.text.texts import MOST_BYTES
from fungistore.remote.files import local_copy, readable
from fungistore.remote.places import parent
from fungistore.remote.urls import is_url
from fungistore.sources.batches import BATCH_ROWS, CELL
from fungistore.sources.delimited import DelimitedFile
from fungistore.sources.headers import (
    ID,
    LABEL,
    PATH,
    ROLES,
    SPLIT,
    Roles,
    find_roles,
    is_word,
    plain_header,
)
from fungistore.sources.json_lines import SUFFIXES, JsonLines
from fungistore.sources.labels import class_names, split_names

UNREADABLE = (pa.ArrowException, UnicodeError, csv.Error)  # what reading a table raises
ITEM = ""  # what the inline column is called here, whose own name is the modality's choice
_BLANK_PATHS_TRIED = 8
_LONGEST_NAME = MOST_BYTES - 16  # bytes of a path, label, split or id: longer cells may be cut
_MOST_BYTES, _LEAST_ROWS = 1 << 26, 64  # of a batch of Parquet, whose cells may be pages of text
_INLINE_TOLD = 3  # names of columns of items in a message
# Of a table that `fungi export` or `Store.to_pandas` made: columns that tell it, and those that are
# no columns of the samples.
_EXPORTED = ({"row", "id", "label", "label_name"}, {"row", "id", "label_number", "failed"})
_OF_EXPORTS = {"row", "label", "label_number", "failed"}


class TypedColumns(Protocol):
    """The columns of a table that knows their types."""

    @property
    def decimal(self) -> str:
        """What numbers have in the place of a point."""

    @property
    def has_blanks(self) -> bool:
        """Whether blanks stand around names."""

    @property
    def names(self) -> list[str]:
        """The names of the columns, in their order."""

    def type_of(self, name: str) -> pa.DataType:
        """Return the type of a column."""

    def batches(self, types: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        """Yield some columns, as their types are."""


Columns = DelimitedFile | TypedColumns  # the former have types that the asker declares


class ParquetFile:
    """The columns of a Parquet file."""

    decimal = "."

    def __init__(self, path: str | Path) -> None:
        with parquet.ParquetFile(readable(path)) as file:
            self._schema = file.schema_arrow
        self.path = path

    @property
    def names(self) -> list[str]:
        """The names of the columns, in their order."""
        return [name.strip() for name in self._schema.names]

    @property
    def has_blanks(self) -> bool:
        """Whether blanks stand around names."""
        return self.names != self._schema.names

    def type_of(self, name: str) -> pa.DataType:
        """Return the type of a column."""
        return self._schema.field(self.names.index(name)).type

    def batches(self, types: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        """Yield some columns, as their types are."""
        headers = [self._schema.names[self.names.index(name)] for name in types]
        with parquet.ParquetFile(readable(self.path)) as file:
            groups = map(file.metadata.row_group, range(file.num_row_groups))
            size = sum(group.total_byte_size for group in groups) // max(file.metadata.num_rows, 1)
            rows = max(_LEAST_ROWS, min(BATCH_ROWS, _MOST_BYTES // max(size, 1)))
            for batch in file.iter_batches(rows, columns=headers):
                yield batch.select(headers).rename_columns(list(types))


def open_columns(path: str | Path, *, has_items: bool = False) -> Columns:
    """Return the columns of a table, whose name tells its format; cells may be items."""
    name = str(path).lower()
    if name.endswith(".parquet"):
        return ParquetFile(path)
    path = local_copy(path)  # of text, which is read several times over
    if name.endswith(SUFFIXES):
        return JsonLines(path)
    return DelimitedFile(path, has_items=has_items)


class ItemRows:
    """The rows of a table: what its columns are, and their cells as text that a store can take.

    Blanks around labels and splits are none of theirs, and class names have one spelling for each
    letter (NFC). Paths and ids are as written, unless the table has blanks around its headers, or a
    file is there only without those around its path.

    Args:
        path: the table.
        inline: names of columns whose cells are items; the first one that there is is taken.
        columns: of the table; default: as its name tells.
        by_id: the rows are of known samples, whose ids suffice.

    Raises while it is read:
        UsageError: the columns cannot be used.
        OSError, pyarrow.ArrowException, UnicodeDecodeError, csv.Error: the file cannot be read.
    """

    def __init__(
        self,
        path: str,
        inline: Sequence[str] = (),
        columns: Columns | None = None,
        *,
        by_id: bool = False,
    ) -> None:
        self._path = path
        self._inline = inline
        self._opened = columns
        self._by_id = by_id

    @cached_property
    def columns(self) -> Columns:
        """The table's columns, by their own names."""
        if self._opened is not None:
            return self._opened
        return open_columns(self._path, has_items=bool(self._inline))

    @cached_property
    def items(self) -> list[str]:
        """The columns whose cells may be items, of which the first one's are."""
        names = self.columns.names
        folded = {plain_header(name): name for name in reversed(names)}
        wanted = (
            name if name in names else folded.get(plain_header(name)) for name in self._inline
        )
        return list(dict.fromkeys(filter(None, wanted)))

    @property
    def item(self) -> str | None:
        """The column whose cells are items."""
        return self.items[0] if self.items else None

    @cached_property
    def roles(self) -> Roles:
        """What the columns are; each role has one."""
        columns = self.columns
        found = find_roles(
            columns.names,
            self._head,
            self._cells,
            is_there=self._is_there,
            taken=self.item,
            has_corrections=self._is_export,
        )
        has_names = PATH in found.of or self.item or (self._by_id and ID in found.of)
        if found.doubled or not has_names:
            raise self._unusable(found)
        if not isinstance(columns, DelimitedFile):
            for role, name in [*found.of.items(), *([(ITEM, self.item)] if self.item else [])]:
                _check_type(self._path, name, role, columns.type_of(name))
        return found

    @property
    def _is_export(self) -> bool:
        """Whether a table of known samples was made by this program."""
        return self._by_id and any(known <= set(self.columns.names) for known in _EXPORTED)

    @property
    def others(self) -> list[str]:
        """The columns that have no role."""
        taken = {*self.roles.of.values(), self.item}
        taken |= _OF_EXPORTS if self._is_export else set()
        return [name for name in self.columns.names if name not in taken]

    def texts(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield some columns of a file without types, as bytes; those of Parquet as they are."""
        return self.columns.batches(dict.fromkeys(names, pa.binary()))

    def batches(self, others: Iterable[str] = ()) -> Iterator[pa.RecordBatch]:
        """Yield the columns that have a role, as text, ITEM as bytes, and others as they are.

        The names of the others begin with CELL.

        Empty labels and splits are null.
        """
        roles = self.roles.of
        names = [*roles.values(), *([self.item] if self.item else []), *others]
        called = [*roles, *([ITEM] if self.item else []), *(CELL + name for name in others)]
        types = {name: pa.binary() if name == self.item else pa.string() for name in names}
        is_text = isinstance(self.columns, DelimitedFile)
        cleaned = {LABEL: class_names, SPLIT: split_names}
        if self._paths_have_blanks:
            cleaned |= {PATH: pc.utf8_trim_whitespace, ID: pc.utf8_trim_whitespace}
        for batch in self.columns.batches(types):
            arrays = []
            for role, column in zip(called, batch.columns, strict=True):
                if role in ROLES:
                    self._refuse_cut(names[called.index(role)], column)
                    column = cleaned.get(role, _as_is)(column.cast(pa.string()))
                elif is_text and role != ITEM:
                    column = pc.utf8_trim_whitespace(column)
                arrays.append(column)
            yield pa.RecordBatch.from_arrays(arrays, called)

    def _refuse_cut(self, name: str, column: pa.Array) -> None:
        """Refuse names of which the end may be left out: they would be those of others."""
        texts = column.cast(pa.string())
        if (pc.max(pc.binary_length(texts)).as_py() or 0) > _LONGEST_NAME:
            raise UsageError(
                "a cell is too long for what its column has",
                where=f"{self._path}, column {name}",
                expected=f"up to {_LONGEST_NAME} bytes",
                hint="look for a quote that is not closed, or rename the column",
            )

    @cached_property
    def _paths_have_blanks(self) -> bool:
        """Whether paths have blanks around that are none of their own."""
        if self.columns.has_blanks or PATH not in self.roles.of:
            return self.columns.has_blanks
        for batch in self._head([self.roles.of[PATH]]):
            paths = batch.column(0).cast(pa.string())
            trimmed = pc.utf8_trim_whitespace(paths)
            odd = pc.fill_null(
                pc.and_(pc.not_equal(paths, trimmed), pc.not_equal(trimmed, "")), False
            )
            tried = paths.filter(odd)[:_BLANK_PATHS_TRIED].to_pylist()
            return any(self._is_there(p.strip()) and not self._is_there(p) for p in tried)
        return False

    def _head(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        yield from islice(self.texts(names), 1)

    def _cells(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return self.columns.batches(dict.fromkeys(names, pa.string()))

    def _is_there(self, path: str) -> bool:
        try:
            return locate(parent(self._path), path).exists()
        except (OSError, ValueError):
            return False

    def _unusable(self, found: Roles) -> UsageError:
        exact = (PATH, *self._inline[:_INLINE_TOLD])
        hint = "rename the column that holds the files to `path`"
        if self._inline:
            hint += f", or the one that holds the items to `{self._inline[0]}`"
        if found.doubled:
            hint = "rename or drop one of the columns that are called the same"
        return UsageError(
            "the manifest's columns cannot be used",
            where=self._path,
            expected=f"{' or '.join(f'`{name}`' for name in exact)}, and if known "
            "`label`, `split` and `id`, each once",
            found=", ".join(self.columns.names),
            hint=hint,
        )


def _as_is(column: pa.Array) -> pa.Array:
    return column


def _check_type(path: str, name: str, role: str, kind: pa.DataType) -> None:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    number = pa.types.is_integer(kind) and role in (LABEL, ID)
    number |= pa.types.is_boolean(kind) and role == LABEL
    text = is_word(kind) and not pa.types.is_integer(kind)
    content = role == ITEM and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
    if not (text or number or content or pa.types.is_null(kind)):
        raise UsageError(
            "a column of the manifest has the wrong type",
            where=f"{path}, column {name}",
            expected="text or bytes" if role == ITEM else "text (labels and ids may be integers)",
            found=kind,
            hint="convert the column (pandas: astype('string') or astype('Int64'))",
        )


def unreadable(what: str, path: str | Path, error: Exception) -> FungiError:
    """Return what to say of a table that cannot be read, whose cause tells what would help."""
    said = str(error)
    if isinstance(error, OSError) and error.strerror and is_url(str(path)):
        return unreachable(error, "the manifest")
    if isinstance(error, UnicodeError) or "UTF8" in said:
        hint = "save it as UTF-8, or convert it: iconv -f WINDOWS-1252 -t UTF-8 OLD.csv > NEW.csv"
    elif "Empty CSV" in said:
        hint = "write a header line into it, such as: path,label,split"
    elif re.search(r"Expected \d+ columns", said):
        hint = "give each row a cell for each column; put cells with commas in them in quotes"
    elif str(path).lower().endswith(".parquet"):
        hint = "write it again; a text table's name ends in .csv"
    elif isinstance(error, OSError) and error.strerror:
        hint = "check that the file is there, and may be read"
    else:
        hint = "a .csv is text with a header line, and with commas, semicolons, tabs or | between"
    return UsageError(what, where=path, found=error, hint=hint)
