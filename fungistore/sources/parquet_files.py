"""Which Parquet files a path, a pattern or a folder means."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from glob import glob
from itertools import islice
from typing import Any

from fungistore.names import is_hidden
from fungistore.remote.places import absolute, common, relative
from fungistore.remote.urls import is_url
from fungistore.sources.folder import is_folder, visible_entries
from fungistore.sources.shards import check_shards, expand_braces

PARQUET = ".parquet"
PEEKED_ENTRIES, PEEKED_FOLDERS = 100, 30
_DIGITS = re.compile(r"([0-9]+)")


def parquet_files(path: str) -> list[str]:
    """Return the files that a path, pattern or folder means, numbers in them by their value."""
    if is_url(path):
        if not path.lower().endswith(PARQUET):
            return _files_below(path)
        return check_shards(expand_braces(path))
    if os.path.isfile(path):
        return [path] if path.lower().endswith(PARQUET) else []
    if os.path.isdir(path):
        return _files_below(path)
    if not path.lower().endswith(PARQUET):
        return []
    if "{" in path:
        return [one for one in expand_braces(path) if os.path.isfile(one)]
    return sorted(filter(os.path.isfile, glob(path)), key=_by_number) if "*" in path else []


def may_have_tables(folder: str) -> bool:
    """Whether a Parquet file is among the first entries of a folder, or of the first in it.

    Every folder source is asked, so a folder of a million files is not listed for it.
    """
    entries = _first_entries(folder)
    inner = (one.path for one in entries if one.is_dir() and not is_hidden(one.name))
    places = (folder, *islice(inner, PEEKED_FOLDERS))
    return any(
        one.name.lower().endswith(PARQUET) for place in places for one in _first_entries(place)
    )


def _first_entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(islice(entries, PEEKED_ENTRIES))
    except OSError:
        return []


def _files_below(folder: str) -> list[str]:
    """Return a folder's Parquet files, and those one or two folders down, of a folder of such."""
    found: list[str] = []
    pending = [(folder, 0)]
    while pending:
        place, depth = pending.pop()
        for entry in visible_entries(place):
            if is_folder(entry):
                if depth < 2:
                    pending.append((entry.path, depth + 1))
            elif entry.name.lower().endswith(PARQUET):
                found.append(entry.path)
    return sorted(found, key=lambda path: _by_number(relative(path, absolute(folder))))


def _by_number(name: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in _DIGITS.split(name)]


def common_folder(files: Iterable[str]) -> str:
    """Return the folder that all files are below."""
    return common([*files])
