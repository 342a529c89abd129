"""Text as any system's programs write it: UTF-8 or UTF-16, with a mark or without, any line ends."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

HEAD_BYTES = 1 << 16  # by which a file is known
UTF_8 = "utf-8"

# What a text can begin with, the longest first: UTF-32's mark begins as that of UTF-16 does.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, UTF_8),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# A line's end, of text that has no mark; names that NULs part have none.
_LINE_ENDS = ((b"\n\0", "utf-16-le"), (b"\0\n", "utf-16-be"))


def encoding_of(head: bytes) -> tuple[str, int]:
    """Return the encoding of a text by its beginning, and how many bytes its mark has."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding, len(mark)
    if head.count(0) * 3 > len(head):
        for end, encoding in _LINE_ENDS:
            if end in head:
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


def text_stream(file: BinaryIO) -> io.TextIOWrapper:
    """Return the text of a binary stream that can be sought, its line ends as they are."""
    encoding, mark = encoding_of(file.read(HEAD_BYTES))
    file.seek(mark)
    return io.TextIOWrapper(file, encoding, newline="")


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
