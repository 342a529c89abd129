"""Files of cells between commas, semicolons, tabs or bars, as spreadsheets and programs write them.

Arrow reads those that are UTF-8. What it does not know, such as UTF-16, or quotes behind a blank,
is written anew on the way by Python's own reader: slower, in bounded memory all the same.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as arrow_csv

from fungistore.text import HEAD_BYTES, UTF_8, encoding_of, text_stream

DELIMITERS = ",;\t|"
# One thread, because only then do Arrow's messages name the row.
_READ = arrow_csv.ReadOptions(use_threads=False)
_SAID = re.compile(r"sep=([^\r\n])[ \t]*(?:\r\n?|\n)")  # a first line of Excel's
_ROWS_AT_ONCE = 1024


class DelimitedFile:
    """A table of text with a header line.

    The header decides what is between cells; blanks around its names are none of theirs.

    Args:
        path: the file.

    Attributes:
        delimiter: what is between cells.
        decimal: what numbers may have in the place of a point.

    Raises while it is read:
        OSError, pyarrow.ArrowException, UnicodeDecodeError, csv.Error: it cannot be.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
        encoding, mark = encoding_of(head)
        text = head[mark:].decode(encoding, "replace")
        said = _SAID.match(text)
        self._skipped_lines = 1 if said else 0
        self.delimiter = said[1] if said else _delimiter_of(text)
        # Semicolons are of systems whose numbers have commas; elsewhere 1,234 may be a thousand.
        self.decimal = "," if self.delimiter == ";" else "."
        behind_blank = re.search(rf"{re.escape(self.delimiter)}[ ]+\"", text)
        self._is_plain = encoding == UTF_8 and not said and not behind_blank

    @cached_property
    def _headers(self) -> list[str]:
        with self._opened() as file, self._reader(file) as reader:
            return list(reader.schema.names)

    @property
    def names(self) -> list[str]:
        """The names of the columns, in their order."""
        return [name.strip() for name in self._headers]

    @property
    def has_blanks(self) -> bool:
        """Whether blanks stand around names of the header, and so around cells too."""
        return self.names != self._headers

    def batches(self, types: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        """Yield some columns, whose types are declared: the label 007 stays as it is written."""
        headers = dict(zip(reversed(self.names), reversed(self._headers), strict=True))
        wanted = {headers[name]: kind for name, kind in types.items()}
        convert = arrow_csv.ConvertOptions(include_columns=list(wanted), column_types=wanted)
        with self._opened() as file, self._reader(file, convert) as reader:
            for batch in reader:
                yield batch.rename_columns(list(types))

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        if self._is_plain:
            yield self.path
            return
        with open(self.path, "rb") as file:
            text = text_stream(file)
            for _ in range(self._skipped_lines):
                text.readline()
            rows = csv.reader(text, delimiter=self.delimiter, skipinitialspace=True, strict=True)
            yield pa.PythonFile(io.BufferedReader(_Rewritten(rows, self.delimiter)), "r")

    def _reader(
        self, file: Any, convert: arrow_csv.ConvertOptions | None = None
    ) -> arrow_csv.CSVStreamingReader:
        parse = arrow_csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True)
        return arrow_csv.open_csv(file, _READ, parse, convert)


class _Rewritten(io.RawIOBase):
    """Rows as UTF-8 in the plainest form, a thousand at a time."""

    def __init__(self, rows: Iterator[list[str]], delimiter: str) -> None:
        self._rows, self._delimiter, self._left = rows, delimiter, b""

    def readable(self) -> bool:
        """Return that it is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer."""
        if not self._left:
            text = io.StringIO()
            writer = csv.writer(text, delimiter=self._delimiter, lineterminator="\n")
            writer.writerows(row for _, row in zip(range(_ROWS_AT_ONCE), self._rows, strict=False))
            self._left = text.getvalue().encode()
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def _delimiter_of(text: str) -> str:
    """Return the delimiter that a header line has most of, outside of quotes."""
    header = re.sub(r'"(?:[^"]|"")*"', "", text.lstrip("\r\n")) if '"' in text else text
    line = next(filter(None, re.split(r"[\r\n]+", header, maxsplit=2)), "")
    return max(DELIMITERS, key=line.count)
