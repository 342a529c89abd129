"""Which source a command line names: a folder, a manifest, tar shards, or paths on stdin."""

from __future__ import annotations

import difflib
import os
import stat
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from fungistore.errors import UsageError
from fungistore.modalities.modality import IMAGE, find_modality
from fungistore.sources.folder import FolderSource
from fungistore.sources.manifest import ManifestSource
from fungistore.sources.paths import ListedSource
from fungistore.sources.sample import Source
from fungistore.sources.shards import expand_braces, find_shards, is_shard_name
from fungistore.sources.stdin import PathListSource
from fungistore.sources.webdataset import TarSource

_KINDS = (
    "a .csv or .parquet manifest, WebDataset .tar shards "
    "(a file, a folder of them, or shards/{000..012}.tar), or - for paths on stdin"
)

# Looking for a misspelt name must not list a folder of millions.
_NEAR_NAMES_SEARCHED = 10_000


def open_source(
    source: str | Path | Sequence[str | Path],
    stdin: BinaryIO | None = None,
    *,
    modality: str = IMAGE,
) -> Source:
    """Return the source that a command line names; no item of it is read yet.

    Args:
        source: a folder, a manifest, a shard, a brace pattern of shards, or "-"; or a list of paths
            of single files.
        stdin: what "-" reads, standard input if None.
        modality: what is looked for in it: "image", or a plug-in's.

    Raises:
        UsageError: there is no such file, or it is not a source, or no such modality.
        FungiError: the folder cannot be listed.
    """
    kind = find_modality(modality)
    if not isinstance(source, str | Path):
        return ListedSource(source)
    source = str(source)
    kinds = f"a folder of {kind.items}, {_KINDS}"
    if source == "-":
        return PathListSource(sys.stdin.buffer if stdin is None else stdin)
    try:
        mode, reason = Path(source).stat().st_mode, ""
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        mode, reason = 0, (getattr(error, "strerror", None) or str(error)).lower()
    if stat.S_ISDIR(mode):
        shards = find_shards(source, kind.suffixes)
        if shards:
            return TarSource(shards, source, kind.suffixes)
        return FolderSource(source, kind.suffixes)
    if mode and source.lower().endswith((".csv", ".parquet")):
        return ManifestSource(source, kind.columns)
    if mode and is_shard_name(source):
        return TarSource([source], str(Path(source).parent), kind.suffixes)
    if mode:
        raise UsageError(
            f"this file is not a source of {kind.items}",
            where=source,
            expected=kinds,
            hint=f"for single {kind.items}, give the folder that holds them, "
            "or their paths on stdin",
        )
    if "{" in source and is_shard_name(source):
        fixed, _, _ = source.partition("{")
        return TarSource(expand_braces(source), str(Path(fixed + "*").parent), kind.suffixes)
    near = _near_name(Path(source))
    hint = f"did you mean {near!r}?" if near else None
    raise UsageError(reason, where=source, expected=kinds, hint=hint)


def _near_name(path: Path) -> str | None:
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in islice(entries, _NEAR_NAMES_SEARCHED)]
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return None
    near = difflib.get_close_matches(path.name, names, n=1)
    return str(path.parent / near[0]) if near else None
