"""Which source a command line names: a folder, a manifest, tar shards, or paths on stdin."""

from __future__ import annotations

import difflib
import os
import stat
import sys
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from fungistore.errors import UsageError
from fungistore.modalities.image.decode import MAX_PIXELS, read_image
from fungistore.sources.folder import FolderSource
from fungistore.sources.labels import sort_label_names
from fungistore.sources.location import absolute_uri, locate, path_to_uri, uri_to_path
from fungistore.sources.manifest import ManifestSource
from fungistore.sources.sample import ImageFile, Sample, Source
from fungistore.sources.shards import expand_braces, find_shards, is_shard_name
from fungistore.sources.stdin import PathListSource
from fungistore.sources.webdataset import TarSource

__all__ = [
    "MAX_PIXELS",
    "ImageFile",
    "Sample",
    "Source",
    "absolute_uri",
    "locate",
    "open_source",
    "path_to_uri",
    "read_image",
    "sort_label_names",
    "uri_to_path",
]

_KINDS = (
    "a folder of images, a .csv or .parquet manifest, WebDataset .tar shards "
    "(a file, a folder of them, or shards/{000..012}.tar), or - for paths on stdin"
)

# Looking for a misspelt name must not list a folder of millions.
_NEAR_NAMES_SEARCHED = 10_000


def open_source(source: str, stdin: BinaryIO | None = None) -> Source:
    """Return the source that a command line names; nothing is read from an image yet.

    Args:
        source: a folder, a manifest, a shard, a brace pattern of shards, or "-".
        stdin: what "-" reads, standard input if None.

    Raises:
        UsageError: there is no such file, or it is not a source.
        FungiError: the folder cannot be listed.
    """
    if source == "-":
        return PathListSource(sys.stdin.buffer if stdin is None else stdin)
    try:
        mode, reason = Path(source).stat().st_mode, ""
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        mode, reason = 0, (getattr(error, "strerror", None) or str(error)).lower()
    if stat.S_ISDIR(mode):
        shards = find_shards(source)
        return TarSource(shards, root=source) if shards else FolderSource(source)
    if mode and source.lower().endswith((".csv", ".parquet")):
        return ManifestSource(source)
    if mode and is_shard_name(source):
        return TarSource([source], root=str(Path(source).parent))
    if mode:
        raise UsageError(
            "this file is not a source of images",
            where=source,
            expected=_KINDS,
            hint="for single images, give the folder that holds them, or their paths on stdin",
        )
    if "{" in source and is_shard_name(source):
        fixed, _, _ = source.partition("{")
        return TarSource(expand_braces(source), root=str(Path(fixed + "*").parent))
    near = _near_name(Path(source))
    hint = f"did you mean {near!r}?" if near else None
    raise UsageError(reason, where=source, expected=_KINDS, hint=hint)


def _near_name(path: Path) -> str | None:
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in islice(entries, _NEAR_NAMES_SEARCHED)]
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return None
    near = difflib.get_close_matches(path.name, names, n=1)
    return str(path.parent / near[0]) if near else None
