"""Files of cells between commas, semicolons, tabs or bars, as spreadsheets and programs write them.

Arrow reads those that are UTF-8. What it does not know, such as UTF-16, or quotes behind a blank,
is written anew on the way by Python's own reader: slower, in bounded memory all the same. Rows that
are longer than Arrow's blocks have their long cells cut on the way, where nobody reads on.
"""

from __future__ import annotations

import csv
import io
import re
import tempfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import IO, Any
from weakref import finalize

import pyarrow as pa
import pyarrow.csv as arrow_csv

from fungistore.modalities.text.texts import MOST_BYTES
from fungistore.sources.long_cells import cut_cells
from fungistore.text import HEAD_BYTES, UTF_8, byte_pieces, encoding_of

DELIMITERS = ",;\t|"
# One thread, because only then do Arrow's messages name the row.
_READ = arrow_csv.ReadOptions(use_threads=False)
_READ_LONG = arrow_csv.ReadOptions(use_threads=False, block_size=1 << 24)  # a dozen cut cells
_TOO_LONG = "straddling"  # in what Arrow says of a row that no block holds
_SAID = re.compile(r"sep=([^\r\n])[ \t]*(?:\r\n?|\n)")  # a first line of Excel's
_ROWS_AT_ONCE = 1024


class DelimitedFile:
    """A table of text with a header line.

    The header decides what is between cells; blanks around its names are none of theirs.

    Args:
        path: the file.
        has_items: cells may be items, which are cut where they are long; a row of others that is
            longer than Arrow's blocks is an error.

    Attributes:
        delimiter: what is between cells.
        decimal: what numbers may have in the place of a point.

    Raises while it is read:
        OSError, pyarrow.ArrowException, UnicodeDecodeError, csv.Error: it cannot be.
    """

    def __init__(self, path: str | Path, *, has_items: bool = False) -> None:
        self.path = path
        self._has_items = has_items
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
        encoding, mark = encoding_of(head)
        text = head[mark:].decode(encoding, "replace")
        said = _SAID.match(text)
        self._skipped_lines = 1 if said else 0
        self.delimiter = said[1] if said else _delimiter_of(text)
        # Semicolons are of systems whose numbers have commas; elsewhere 1,234 may be a thousand.
        self.decimal = "," if self.delimiter == ";" else "."
        self._has_long_rows = False
        behind_blank = re.search(rf"{re.escape(self.delimiter)}[ ]+\"", text)
        self._is_plain = encoding == UTF_8 and not said and not behind_blank

    @cached_property
    def _headers(self) -> list[str]:
        while True:
            try:
                with self._reader() as reader:
                    return list(reader.schema.names)
            except pa.ArrowInvalid as error:
                self._cut_from_now(error)

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
        given, invalid = 0, pa.ArrowInvalid  # which a module that has ended has no more
        while True:
            try:
                skipped = given
                with self._reader(convert) as reader:
                    for batch in reader:
                        rest = batch.slice(min(skipped, len(batch)))
                        skipped -= len(batch) - len(rest)
                        given += len(rest)
                        if len(rest) or not given:
                            yield rest.rename_columns(list(types))
                return
            except invalid as error:
                self._cut_from_now(error)

    def _cut_from_now(self, error: pa.ArrowInvalid) -> None:
        """Have long cells cut where a row is too long for Arrow; raise any other error again."""
        is_mended = self._has_long_rows or not self._has_items
        if is_mended or _TOO_LONG not in str(error):
            raise error
        self._has_long_rows = True

    @property
    def _readable(self) -> str | Path:
        """A file that Arrow reads: the table itself, or a copy in the plainest form."""
        is_itself = self._is_plain and not self._has_long_rows
        return self.path if is_itself else self._copy.name

    @cached_property
    def _copy(self) -> IO[bytes]:
        """The table as plain UTF-8, on the disk for as long as its columns are asked for."""
        copy = tempfile.NamedTemporaryFile(prefix="fungi-table-")  # noqa: SIM115  # closed below
        finalize(self, copy.close)
        with open(self.path, "rb") as file:
            pieces = byte_pieces(file)
            if self._has_items:
                pieces = cut_cells(pieces, self.delimiter.encode())
            copy.writelines(pieces if self._is_plain else self._rewritten(pieces))
        copy.flush()
        return copy

    def _rewritten(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Yield rows as Python reads and writes them, a thousand at a time."""
        csv.field_size_limit(max(csv.field_size_limit(), MOST_BYTES))
        lines = io.TextIOWrapper(io.BufferedReader(_Pieces(pieces)), UTF_8, newline="")
        for _ in range(self._skipped_lines):
            lines.readline()
        rows = csv.reader(lines, delimiter=self.delimiter, skipinitialspace=True, strict=True)
        while some := list(islice(rows, _ROWS_AT_ONCE)):
            text = io.StringIO()
            csv.writer(text, delimiter=self.delimiter, lineterminator="\n").writerows(some)
            yield text.getvalue().encode()

    def _reader(
        self, convert: arrow_csv.ConvertOptions | None = None
    ) -> arrow_csv.CSVStreamingReader:
        parse = arrow_csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True)
        read = _READ_LONG if self._has_long_rows else _READ
        return arrow_csv.open_csv(self._readable, read, parse, convert)


class _Pieces(io.RawIOBase):
    """A file of the bytes that an iterator yields."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._left = pieces, b""

    def readable(self) -> bool:
        """Return that it is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer."""
        while not self._left and (piece := next(self._pieces, None)) is not None:
            self._left = piece
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def _delimiter_of(text: str) -> str:
    """Return the delimiter that a header line has most of, outside of quotes."""
    header = re.sub(r'"(?:[^"]|"")*"', "", text.lstrip("\r\n")) if '"' in text else text
    line = next(filter(None, re.split(r"[\r\n]+", header, maxsplit=2)), "")
    return max(DELIMITERS, key=line.count)
