"""Which tar files a source names: one, a folder of them, or a brace pattern."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from fungistore.errors import UsageError
from fungistore.location import Location
from fungistore.modalities.fetching import unreachable
from fungistore.names import suffix_of
from fungistore.remote.files import is_file
from fungistore.remote.places import refuse_secrets
from fungistore.remote.urls import is_url
from fungistore.sources.folder import is_folder, visible_entries

LOOKED_AT = 32  # shards at URLs at once
_SHARD = re.compile(r"\.(tar|(tgz|tbz2?|txz|tar\.(gz|bz2|xz|zst)))$", re.IGNORECASE)
_BRACES = re.compile(r"\{(?:(?P<low>[0-9]+)\.\.(?P<high>[0-9]+)|(?P<words>[^{}]*,[^{}]*))\}")


def is_shard_name(name: str) -> bool:
    """Tell whether a file name or pattern ends like a tar file, compressed ones included."""
    return _SHARD.search(name) is not None


def find_shards(folder: str, suffixes: Collection[str]) -> list[str]:
    """List the shards of a folder that holds no folders and no files of these suffixes; or nothing.

    An archive beside the class folders that were unpacked from it is no shard.
    """
    entries = visible_entries(folder)
    if any(suffix_of(entry.name) in suffixes or is_folder(entry) for entry in entries):
        return []
    return [entry.path for entry in entries if is_shard_name(entry.name)]


def expand_braces(pattern: str) -> Iterator[str]:
    """Expand `{000..012}` and `{a,b}` (not nested) as a shell does; without braces, the pattern."""
    braces = _BRACES.search(pattern)
    if braces is None:
        yield pattern
        return
    words: Iterable[str]
    if braces["words"] is not None:
        words = braces["words"].split(",")
    else:
        low, high, width = int(braces["low"]), int(braces["high"]), len(braces["low"])
        step = 1 if low <= high else -1
        words = (f"{number:0{width}}" for number in range(low, high + step, step))
    for word in words:
        for rest in expand_braces(pattern[braces.end() :]):
            yield pattern[: braces.start()] + word + rest


def check_shards(paths: Iterable[str]) -> list[str]:
    """Return the shards' paths.

    Raises:
        UsageError: one is missing or compressed.
        UnreachableError: they are objects, and cannot be looked at.
    """
    found: list[str] = []
    rest = iter(paths)
    while some := list(islice(rest, LOOKED_AT)):  # a pattern may be of millions that are not there
        if is_url(some[0]):
            with ThreadPoolExecutor(LOOKED_AT) as pool:
                found += pool.map(check_shard, some)
        else:
            found += map(check_shard, some)
    return found


def check_shard(path: str) -> str:
    """Return the shard's path.

    Raises:
        UsageError: the shard is missing or compressed.
        UnreachableError: it is an object that cannot be looked at.
    """
    if is_url(path):
        refuse_secrets(path)
    try:
        is_there = is_file(path) if is_url(path) else Location(path).measure() != (None, None)
    except OSError as error:
        raise unreachable(error, "the shard") from error
    if not is_there:
        hint = "check its name, and the numbers in braces if there were any"
        if is_url(path) and "*" in path:
            hint = "at a URL a pattern has braces, {000..012} or {a,b}; or give the folder"
        raise UsageError("a shard is missing", where=path, hint=hint)
    shard = _SHARD.search(path)
    if shard and shard[2]:
        raise UsageError(
            "compressed shards cannot be read",
            where=path,
            expected="an uncompressed .tar, which gives access to single files",
            hint="decompress it (gunzip, unxz, zstd -d); images in it are compressed already; "
            "or, of an archive of a folder, unpack it and give that",
        )
    return path
