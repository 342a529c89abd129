"""Paths on standard input, as `find` or `ls` write them: `find . | fungi extract - STORE`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from fungistore.errors import FungiError
from fungistore.location import locate, path_to_uri
from fungistore.remote.places import without_secret
from fungistore.sources.measuring import measure_places
from fungistore.sources.sample import Sample
from fungistore.text import path_lines

LOOKED_AT = 1024  # paths at once


class PathListSource:
    """Paths from a binary stream, one a line, or NUL-separated if the first 64 KiB hold a NUL.

    The stream is read once, in bounded memory. It may begin with a byte order mark, be UTF-16, and
    have any system's line ends. A line may be a URL. Ids and uris are the paths as given, without a
    leading `./`, so that `find .` and a folder source agree. Relative paths start at the current
    directory. Blank lines are skipped; labels and splits are not known.

    Args:
        stream: the paths.
        root: what relative ones start from; default: the current directory.

    Raises while iterating:
        UsageError: a line is far too long for a path.
        FungiError: the stream is iterated a second time.
    """

    def __init__(self, stream: BinaryIO, root: str | None = None) -> None:
        self.root = str(Path.cwd()) if root is None else root
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
        lines = (line for line in path_lines(stream) if line.strip())
        while some := list(islice(lines, LOOKED_AT)):
            yield from samples_of(self.root, some)


def samples_of(root: str, paths: Iterable[bytes]) -> Iterator[Sample]:
    """Yield the samples of paths that stand in no folder or manifest, without leading `./`.

    All of them are looked at at once, which hides the way to those that are URLs.
    """
    uris = []
    for path in paths:
        while path.startswith(b"./"):
            path = path[2:].lstrip(b"/")
        uris.append(path_to_uri(without_secret(os.fsdecode(path))))
    places = [locate(root, uri) for uri in uris]
    for uri, (size, mtime) in zip(uris, measure_places(places), strict=True):
        yield Sample(uri, uri, bytes=size, mtime=mtime)
