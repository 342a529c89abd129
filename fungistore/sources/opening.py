"""Which source a command line names: a folder, a manifest, tar shards, or paths on stdin."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from fungistore.errors import UsageError, did_you_mean
from fungistore.modalities.modality import IMAGE, Modality, find_modality
from fungistore.remote.places import as_text
from fungistore.remote.urls import is_url
from fungistore.sources.advice import FIND, path_hint, source_hint
from fungistore.sources.folder import is_store
from fungistore.sources.paths import ListedSource
from fungistore.sources.reader import READERS, Reader
from fungistore.sources.remote_sources import open_at_url
from fungistore.sources.sample import Source
from fungistore.sources.stdin import PathListSource
from fungistore.sources.text_files import of_lines, standard_input

# Looking for a misspelt name must not list a folder of millions.
_NEAR_NAMES_SEARCHED = 10_000
# Readers whose paths are of files, or patterns of them.
OF_FILES = ("tar", "saved", "parquet", "npz", "idx", "cifar", "hdf5", "table", "lines", "folder")


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
    source = as_text(source)
    if source == "-":
        stream = sys.stdin.buffer if stdin is None else stdin
        return standard_input(stream, kind) if of_lines(kind) else PathListSource(stream)
    if is_url(source):
        return open_at_url(source, kind)
    name, colon, path = source.partition(":")
    if colon and name in READERS and is_url(path):
        return open_at_url(path, kind, name)
    if colon and name in READERS and not os.path.lexists(source):
        return _named_source(name, path, kind)
    if is_store(source):
        raise UsageError(
            "this is a store, and no source",
            where=source,
            expected=f"a folder of {kind.items}, or what else has them",
            hint="the source comes first: fungi extract SOURCE STORE",
        )
    for name in READERS:
        reader = READERS[name]()
        if reader.recognises(source, kind):
            return reader.open(source, kind)
    raise _not_a_source(source, kind)


def _named_source(name: str, path: str, kind: Modality) -> Source:
    reader: Reader = READERS[name]()
    if name not in OF_FILES:  # a data set, or a plug-in's, whose paths may be anything
        return reader.open(path, kind)
    if not path:
        raise UsageError("no path was given", where=f"{name}:", expected=f"{name}:PATH")
    if not os.path.exists(path) and not set("*{") & set(path):
        raise _not_a_source(path, kind)
    try:
        return reader.open(path, kind)
    except UsageError as error:
        error.hint = error.hint or f"without {name}: before it, what it is gets found out"
        raise


def _not_a_source(source: str, kind: Modality) -> UsageError:
    expected = (
        f"a folder of {kind.items}, a .csv, .jsonl or .parquet manifest, WebDataset .tar shards "
        "(a file, a folder of them, or shards/{000..012}.tar), or - for paths on stdin"
    )
    try:
        Path(source).stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        near = _near_name(Path(source))
        return UsageError(
            (getattr(error, "strerror", None) or str(error)).lower(),
            where=source,
            expected=expected,
            hint=_near_reader(source)
            or path_hint(source)
            or (f"did you mean {near!r}?" if near else FIND),
        )
    return UsageError(
        f"this file is not a source of {kind.items}",
        where=source,
        expected=expected,
        hint=source_hint(source, kind)
        or "a manifest's name ends in .csv, .jsonl or .parquet; for single "
        f"{kind.items}, give the folder that holds them",
    )


def _near_reader(source: str) -> str | None:
    """Return which reader a prefix is nearly the name of, where a path follows it."""
    name, _, path = source.partition(":")
    return did_you_mean(name, READERS) if path and os.path.exists(path) else None


def _near_name(path: Path) -> str | None:
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in islice(entries, _NEAR_NAMES_SEARCHED)]
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return None
    near = difflib.get_close_matches(path.name, names, n=1)
    return str(path.parent / near[0]) if near else None
