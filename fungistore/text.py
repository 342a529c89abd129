"""Text as any system's programs write it: any UTF, with a mark or without, any line ends."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fungistore.errors import UsageError

HEAD_BYTES = 1 << 16  # by which a file is known
UTF_8 = "utf-8"
# Linux takes paths of at most 4096 bytes; a longer line is no list of paths but some binary file.
_LONGEST_PATH = 1 << 15

_JOINERS = "\u200c\u200d"

# What a text can begin with, the longest first: UTF-32's mark begins as that of UTF-16 does.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, UTF_8),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Ends of lines, of text that has no mark; names that NULs part have none.
_LINE_ENDS = (({b"\n\0", b"\r\0"}, "utf-16-le"), ({b"\0\n", b"\0\r"}, "utf-16-be"))


def encoding_of(head: bytes) -> tuple[str, int]:
    """Return the encoding of a text by its beginning, and how many bytes its mark has."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding, len(mark)
    if head.count(0) * 3 > len(head):
        letters = {head[start : start + 2] for start in range(0, len(head), 2)}
        for ends, encoding in _LINE_ENDS:
            if ends & letters:
                return encoding, 0
    return UTF_8, 0


def decoded(data: bytes) -> str:
    r"""Return a whole text, whose lines end in "\n".

    Raises:
        UnicodeDecodeError: it is no UTF.
    """
    encoding, mark = encoding_of(data)
    return data[mark:].decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def read_text(path: Path) -> str:
    r"""Return the text of a file, whose lines end in "\n".

    Raises:
        OSError: the file cannot be read.
        UnicodeDecodeError: it is no UTF.
    """
    return decoded(path.read_bytes())


def beginning(text: str, most: int) -> str:
    """Return the beginning of any text on one line, which cannot steer what shows it.

    Characters that do, or that change the direction of writing, are spelled as Python does; the
    joiners that scripts and emoji are written with stay.
    """
    line = " ".join(text[: most * 4].split())
    shown = line[:most] + ("..." if len(line) > most or len(text) > most * 4 else "")
    return "".join(c if c.isprintable() or c in _JOINERS else ascii(c)[1:-1] for c in shown)


def byte_pieces(stream: BinaryIO, size: int = HEAD_BYTES) -> Iterator[bytes]:
    """Yield the bytes of a stream as UTF-8 without a mark; those of UTF-8, and odd ones, as is."""
    head = b""
    while len(head) < len(codecs.BOM_UTF32_LE) and (more := stream.read(size)):  # a pipe gives some
        head += more
    encoding, mark = encoding_of(head)
    if encoding == UTF_8:
        decode = None
    else:
        decode = codecs.getincrementaldecoder(encoding)("backslashreplace").decode
    piece = head[mark:]
    while piece or head:
        if piece:
            yield piece if decode is None else decode(piece).encode()
        head = piece = stream.read(size)


def lines_of(stream: BinaryIO) -> list[bytes]:
    """Return all lines of a stream, of any length, as UTF-8 and without their ends."""
    data = b"".join(byte_pieces(stream))
    end = b"\n" if b"\n" in data else b"\r"
    return [line.removesuffix(b"\r") for line in data.split(end)]


def path_lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a stream, or of a list that NULs part, without their ends; empty ones too.

    Its first 64 KiB tell how it is spelled: with a mark, as UTF-16, and with which line ends.

    Raises:
        UsageError: a line is far too long for a path.
    """
    pieces = byte_pieces(stream)
    rest = next(pieces, b"")
    separator = next((mark for mark in (b"\0", b"\n", b"\r") if mark in rest), b"\n")
    number = 0
    while rest:
        *lines, rest = rest.split(separator)
        for line in lines:
            number += 1
            yield line if separator == b"\0" else line.removesuffix(b"\r")
        if len(rest) > _LONGEST_PATH:
            raise UsageError(
                "standard input is not a list of paths",
                where=f"line {number + 1}",
                expected="one path a line, or NUL-separated paths",
                found=f"a line of more than {_LONGEST_PATH} bytes",
                hint="find FOLDER -type f lists paths; any other file is named instead of -",
            )
        chunk = next(pieces, None)
        if chunk is None:
            if rest:
                yield rest if separator == b"\0" else rest.removesuffix(b"\r")
            return
        rest += chunk
