"""Paths on standard input, as `find` or `ls` write them: `find . | fungi extract - STORE`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fungistore.errors import FungiError, UsageError
from fungistore.location import locate, path_to_uri
from fungistore.sources.sample import Sample

_CHUNK = 1 << 16

# Linux takes paths of at most 4096 bytes; a longer line is no list of paths but some binary file.
_LONGEST_PATH = 1 << 15


class PathListSource:
    """Paths from a binary stream, one a line, or NUL-separated if the first 64 KiB hold a NUL.

    The stream is read once, in bounded memory. Ids and uris are the paths as given, without a
    leading `./`, so that `find .` and a folder source agree. Relative paths start at the current
    directory. Blank lines are skipped; labels and splits are not known.

    Raises while iterating:
        UsageError: a line is far too long for a path.
        FungiError: the stream is iterated a second time.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.root = str(Path.cwd())
        self._stream: BinaryIO | None = stream

    def label_names(self) -> list[str]:
        """Return no names, and leave the stream alone."""
        return []

    def __iter__(self) -> Iterator[Sample]:
        stream, self._stream = self._stream, None
        if stream is None:
            raise FungiError(
                "the paths on standard input can be read only once",
                hint="write them to a .csv manifest, under a first line that says: path",
            )
        for line in _lines(stream):
            if line.strip():
                yield sample_of(self.root, line)


def sample_of(root: str, path: bytes) -> Sample:
    """Return the sample of a path that stands in no folder or manifest, without leading `./`."""
    while path.startswith(b"./"):
        path = path[2:].lstrip(b"/")
    uri = path_to_uri(os.fsdecode(path))
    size, mtime = locate(root, uri).measure()
    return Sample(uri, uri, bytes=size, mtime=mtime)


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    rest = stream.read(_CHUNK)
    separator = b"\0" if b"\0" in rest else b"\n"
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
            )
        chunk = stream.read(_CHUNK)
        if not chunk:
            yield rest.removesuffix(b"\r")
            return
        rest += chunk
