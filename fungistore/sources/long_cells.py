"""Cells and lines of any length, of which the beginning alone is held and kept."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from fungistore.modalities.text.texts import MOST_BYTES

_IN_JSON = re.compile(rb'(?:[^"\\]++|\\(?:u[0-9a-fA-F]{4}|[^u]))*+')
_IN_QUOTES = re.compile(rb'(?:[^"]++|"")*+')
_LONGEST_ESCAPE = 6  # bytes: \u00e9


def cut(data: bytes, most: int = MOST_BYTES) -> bytes:
    """Return the beginning of some UTF-8, with no character in two."""
    return data if len(data) <= most else data[: _between_characters(data, most)]


def _between_characters(data: bytes, end: int) -> int:
    """Return the last place up to `end` where a character of UTF-8 begins."""
    return next((n for n in range(end, max(end - 4, -1), -1) if data[n] & 0xC0 != 0x80), end)


class CellCutter:
    """Passes a table on as it comes, without what is beyond a length in each of its cells.

    Args:
        delimiter: what is between cells; None for JSON, of which strings are cells.
        most: bytes of a cell as it is spelled, its quotes left out.
    """

    def __init__(self, delimiter: bytes | None = None, most: int = MOST_BYTES) -> None:
        self._most = most
        self._is_json = delimiter is None
        self._inside = _IN_QUOTES if delimiter else _IN_JSON
        ends = re.escape(delimiter) + rb"\r\n" if delimiter else b""
        self._outside = re.compile(rb'[^"' + ends + rb"]*+")
        self._is_quoted = False
        self._room = self._most
        self._held = b""

    def feed(self, piece: bytes, *, is_last: bool = False) -> bytes:
        """Return what is kept of a piece; the last one may be empty."""
        data, at, kept = self._held + piece, 0, []
        self._held = b""
        if data and data[-1] >= 0x80 and not is_last:  # perhaps a part of a character
            whole = _between_characters(data, len(data) - 1)
            data, self._held = data[:whole], data[whole:]
        while at < len(data):
            pattern = self._inside if self._is_quoted else self._outside
            found = pattern.match(data, at)
            end = found.end() if found else at
            kept.append(self._kept(pattern, data, at, end))
            at = end
            if self._is_quoted and not is_last and len(data) - at <= _LONGEST_ESCAPE:
                self._held = data[at:] + self._held  # what it is shows in what follows
                break
            if at < len(data):
                kept.append(self._passed(data[at : at + 1]))
                at += 1
        return b"".join(kept)

    def _kept(self, pattern: re.Pattern[bytes], data: bytes, start: int, end: int) -> bytes:
        if self._is_json and not self._is_quoted:
            return data[start:end]
        if end - start > self._room:
            found = pattern.match(data, start, start + self._room)  # no escape in two
            whole = found.end() if found else start
            end, self._room = max(_between_characters(data, whole), start), 0
        else:
            self._room -= end - start
        return data[start:end]

    def _passed(self, mark: bytes) -> bytes:
        """Return what is kept of a byte that a run of others ends at."""
        if mark != b'"':
            self._room = self._room if self._is_quoted else self._most
            return mark
        if self._is_quoted:
            self._is_quoted = False
        elif self._is_json or self._room == self._most:
            self._is_quoted, self._room = True, self._most
        return mark


def cut_cells(pieces: Iterable[bytes], delimiter: bytes) -> Iterator[bytes]:
    """Yield a table of text with each of its cells up to MOST_BYTES of it."""
    cutter = CellCutter(delimiter)
    yield from map(cutter.feed, pieces)
    yield cutter.feed(b"", is_last=True)


def cut_lines(pieces: Iterable[bytes], end: bytes) -> Iterator[bytes]:
    """Yield lines without their ends, each up to MOST_BYTES of it."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(end)
        yield from map(cut, lines)
        rest = rest[: MOST_BYTES + 1]
    if rest:
        yield cut(rest)


def cut_json_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines of JSON without their ends, each string up to MOST_BYTES of it."""
    line, cutter = b"", None
    for piece in pieces:
        *ends, rest = piece.split(b"\n")
        for end in ends:
            yield line + (cutter.feed(end, is_last=True) if cutter else end)
            line, cutter = b"", None
        line += cutter.feed(rest) if cutter else rest
        if cutter is None and len(line) > MOST_BYTES:
            cutter = CellCutter()
            line = cutter.feed(line)
    if line or cutter:
        yield line + (cutter.feed(b"", is_last=True) if cutter else b"")
