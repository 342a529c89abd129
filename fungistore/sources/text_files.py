"""Texts one a line: in a .txt file that is named as a source, and on standard input."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, BinaryIO, cast
from weakref import finalize

from fungistore.errors import UsageError
from fungistore.modalities.modality import Modality
from fungistore.names import suffix_of
from fungistore.remote.files import local_copy
from fungistore.remote.urls import is_url
from fungistore.sources.manifest import ManifestSource
from fungistore.sources.sample import Source
from fungistore.sources.stdin import PathListSource
from fungistore.sources.text_lines import TextLines
from fungistore.text import HEAD_BYTES, UTF_8, encoding_of

LINES = "lines"  # the kind of container that finds a long line again
_TXT = "txt"


class LinesReader:
    """A .txt file of texts."""

    summary = "a .txt file, each line of which is a text"

    def recognises(self, path: str, modality: Modality) -> bool:
        """Whether it is a .txt, and what is looked for may stand on a line."""
        return suffix_of(path) == _TXT and of_lines(modality) and os.path.isfile(path)

    def open(self, path: str, modality: Modality) -> LinesSource:
        """Return the source; see `LinesSource`."""
        if not of_lines(modality):
            raise UsageError(
                f"{modality.items} do not stand on lines",
                where=path,
                expected="a text model, or another source",
                hint="a list of paths comes on stdin: fungi extract - STORE < LIST",
            )
        return LinesSource(path, modality.columns)


class LinesSource(ManifestSource):
    """The lines of a file, each of which is an item; those of nothing but white space are none."""

    def __init__(self, path: str, inline: Sequence[str]) -> None:
        super().__init__(path, inline, TextLines(str(local_copy(path)), inline[0]), LINES)

    def remarks(self) -> list[str]:
        """Return what the lines were taken for."""
        return [f"each line of {os.path.basename(self.path)} is a {self.inline[0]}"]


class StandardInput(ManifestSource):
    """Texts on standard input, one a line, or NUL-separated if the first 64 KiB hold a NUL.

    Args:
        held: a file of the disk with all of it, which is kept until the source is gone.
        inline: as of `ManifestSource`.
    """

    def __init__(self, held: IO[bytes], inline: Sequence[str]) -> None:
        finalize(self, held.close)
        lines = TextLines(held.name, inline[0], nul_ends=_has_nul(held))
        super().__init__(held.name, inline, lines, None)
        self.root, self.origin = str(Path.cwd()), ""

    def remarks(self) -> list[str]:
        """Return what the lines were taken for."""
        return [f"each line of standard input is a {self.inline[0]}"]


def of_lines(modality: Modality) -> bool:
    """Whether a line can be an item."""
    return _TXT in modality.suffixes and bool(modality.columns)


def standard_input(stream: BinaryIO, modality: Modality) -> Source:
    """Return what standard input lists: paths if its first line is one of a file, else items.

    It is kept on the disk while it is listed: the same text may be there twice, and is named so.
    """
    held = tempfile.NamedTemporaryFile(prefix="fungi-stdin-")  # noqa: SIM115  # finalized
    shutil.copyfileobj(stream, held, HEAD_BYTES)
    held.flush()
    end = b"\0" if _has_nul(held) else b"\n"
    held.seek(0)
    first = next((line for line in held.read(HEAD_BYTES).split(end) if line.strip()), b"")
    held.seek(0)
    if _is_file(first):
        paths = PathListSource(cast(BinaryIO, held))
        finalize(paths, held.close)
        return paths
    return StandardInput(held, modality.columns)


def _has_nul(held: IO[bytes]) -> bool:
    held.seek(0)
    encoding, _ = encoding_of(head := held.read(HEAD_BYTES))
    return encoding == UTF_8 and b"\0" in head


def _is_file(line: bytes) -> bool:
    if is_url(line.decode(errors="replace")):
        return True
    try:
        return os.path.isfile(line.removesuffix(b"\r"))
    except (OSError, ValueError):
        return False
