"""Which source a URL names: shards, tables, lists of paths, or what is below a prefix."""

from __future__ import annotations

import io

from fungistore.errors import UsageError
from fungistore.modalities.fetching import unreachable
from fungistore.modalities.modality import Modality, has_spans
from fungistore.names import suffix_of
from fungistore.remote.files import is_file, read
from fungistore.remote.places import absolute, is_web, parent, refuse_secrets
from fungistore.sources.folder import FolderSource, is_store, visible_entries
from fungistore.sources.hub_tables import HubParquetReader
from fungistore.sources.manifest import TABLES, ManifestSource
from fungistore.sources.parquet_files import PARQUET
from fungistore.sources.sample import Source
from fungistore.sources.shards import find_shards, is_shard_name
from fungistore.sources.stdin import PathListSource
from fungistore.sources.text_files import LinesSource, of_lines
from fungistore.sources.webdataset import TarReader

LISTS = ("txt", "lst", "list")
NAMED = ("tar", "parquet", "table", "lines", "folder")  # readers that read at a URL
EXPECTED = (
    "a .tar, shards/{000..012}.tar, a .parquet, .csv, .jsonl or .txt list, or a prefix of a "
    "bucket that has such files or images"
)


def open_at_url(url: str, kind: Modality, name: str = "") -> Source:
    """Return the source at a URL; no item of it is read yet.

    Args:
        url: that was given.
        kind: of its items.
        name: of the reader, where one was asked for; else it is found out.

    Raises:
        UsageError: there is none.
        UnreachableError: nobody can tell.
    """
    refuse_secrets(url)
    _refuse_odd(url)
    if name and name not in NAMED:
        raise UsageError(
            f"{name}: reads from a disk alone",
            where=url,
            expected=EXPECTED,
            hint="copy it to a disk first (aws s3 sync, gsutil cp -r, curl -O)",
        )
    try:
        return _opened(absolute(url), kind, name)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise UsageError("there is no such object", where=url, expected=EXPECTED) from error
        raise unreachable(error, "the source") from error


def _refuse_odd(url: str) -> None:
    """Refuse URLs that name no bucket, several, or keys that obstore cannot ask for."""
    bucket, _, key = url.partition("://")[2].partition("/")
    what = "the URL names no bucket" if not bucket else None
    if "{" in bucket:
        what = "files of several buckets are no source together"
    elif {"", ".", ".."} & {*key.rstrip("/").split("/")} and key.rstrip("/"):
        what = "a part of the path is empty, '.' or '..'"
    if what:
        raise UsageError(
            what,
            where=url,
            expected="SCHEME://BUCKET/PATH, one slash between the parts of a path",
            hint="extract each bucket's files into the same store, one after the other"
            if "{" in bucket
            else None,
        )


def _opened(url: str, kind: Modality, name: str) -> Source:
    lower, tar, parquet = url.lower(), TarReader(), HubParquetReader()
    if name == "tar" or (not name and is_shard_name(url)):
        return tar.open(url, kind)
    if name == "folder" or (not name and not suffix_of(url.rpartition("/")[2])):
        return _below(url, kind, is_folder=name == "folder")
    if name == "parquet" or (not name and lower.endswith(PARQUET)):
        several = "{" in url
        if several or name or parquet.recognises(url, kind):
            return parquet.open(url, kind)
    is_known = lower.endswith(TABLES) or suffix_of(lower) in LISTS or name
    if (is_known or not is_web(url)) and not is_file(url):
        if not is_web(url) and visible_entries(url):
            return _below(url, kind)
        raise UsageError("there is no such object", where=url, expected=EXPECTED)
    if name == "table" or (not name and lower.endswith(TABLES)):
        return ManifestSource(url, kind.columns, spans=has_spans(kind))
    if name == "lines" or (suffix_of(lower) == "txt" and of_lines(kind)):
        return LinesSource(url, kind.columns)
    if suffix_of(lower) in LISTS:
        return PathListSource(io.BytesIO(read(url)), parent(url))
    hint = None
    if suffix_of(lower) in kind.suffixes:
        hint = f"for single {kind.items}, their URLs on stdin: echo URL | fungi extract - STORE"
    raise UsageError(
        f"this object is not a source of {kind.items}",
        where=url,
        expected=EXPECTED,
        hint=hint
        or "such objects are not read where they are: copy it to a disk first "
        "(aws s3 cp, curl -O), and unpack it if it is an archive",
    )


def _below(url: str, kind: Modality, *, is_folder: bool = False) -> Source:
    """Return the source that a prefix is."""
    entries = visible_entries(url)
    if not entries:
        is_store(url)  # what is no object store lists nothing, and says so here
        raise UsageError("there is nothing below this URL", where=url, expected=EXPECTED)
    if is_store(url):
        raise UsageError(
            "this is a store, and no source",
            where=url,
            hint="the source comes first: fungi extract SOURCE STORE",
        )
    if not is_folder and find_shards(url, kind.suffixes):
        return TarReader().open(url, kind)
    if not is_folder and any(suffix_of(entry.name) == "parquet" for entry in entries):
        reader = HubParquetReader()
        if reader.recognises(url, kind):
            return reader.open(url, kind)
    return FolderSource(url, kind.suffixes)
