"""Paths on standard input, as `find` or `ls` write them: `find . | fungi extract - STORE`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fungistore.errors import FungiError
from fungistore.location import locate, path_to_uri
from fungistore.sources.sample import Sample
from fungistore.text import path_lines


class PathListSource:
    """Paths from a binary stream, one a line, or NUL-separated if the first 64 KiB hold a NUL.

    The stream is read once, in bounded memory. It may begin with a byte order mark, be UTF-16, and
    have any system's line ends. Ids and uris are the paths as given, without a
    leading `./`, so that `find .` and a folder source agree. Relative paths start at the current
    directory. Blank lines are skipped; labels and splits are not known.

    Raises while iterating:
        UsageError: a line is far too long for a path.
        FungiError: the stream is iterated a second time.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.root = str(Path.cwd())
        self._stream: BinaryIO | None = stream

    def knows(self) -> tuple[str, ...]:
        """Return nothing: neither labels nor splits."""
        return ()

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
        for line in path_lines(stream):
            if line.strip():
                yield sample_of(self.root, line)


def sample_of(root: str, path: bytes) -> Sample:
    """Return the sample of a path that stands in no folder or manifest, without leading `./`."""
    while path.startswith(b"./"):
        path = path[2:].lstrip(b"/")
    uri = path_to_uri(os.fsdecode(path))
    size, mtime = locate(root, uri).measure()
    return Sample(uri, uri, bytes=size, mtime=mtime)
