"""What each query is: a sample of the store, or an image file, and whose views that file gets."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from fungistore.errors import FungiError, ImageError, UsageError
from fungistore.sources.location import path_to_uri
from fungistore.sources.sample import ImageFile
from fungistore.store.store import Store

NEAR_IDS_SEARCHED = 10_000  # looking for a misspelt id must not take a table of millions


@dataclass(frozen=True)
class SampleQuery:
    """A query that is a sample id: its row."""

    text: str
    row: int


@dataclass(frozen=True)
class FileQuery(ImageFile):
    """A query that is an image file; `row` is that of the sample whose file it is, or None."""

    row: int | None


Query = SampleQuery | FileQuery


def identify(store: Store, texts: Sequence[str]) -> list[Query | FungiError]:
    """Tell for each query what it is, or what is wrong with it; an id goes before a file.

    One pass over the sample table serves any number of queries.
    """
    rows = _rows_of_ids(store, texts)
    paths = {text: os.path.abspath(text) for text in texts if text not in rows and _is_file(text)}
    known = _samples_of_paths(store, list(paths.values()))
    return [
        SampleQuery(text, rows[text])
        if text in rows
        else _file_query(text, paths[text], known)
        if text in paths
        else _unknown(store, text)
        for text in texts
    ]


def identify_files(store: Store, texts: Sequence[str]) -> list[FileQuery | FungiError]:
    """Tell for each path which image file it is, or what is wrong with it."""
    paths = {text: os.path.abspath(text) for text in texts if _is_file(text)}
    known = _samples_of_paths(store, list(paths.values()))
    return [
        _file_query(text, paths[text], known)
        if text in paths
        else UsageError("there is no such file", where=text, hint="paths of image files")
        for text in texts
    ]


def _rows_of_ids(store: Store, texts: Sequence[str]) -> dict[str, int]:
    wanted = pa.array(sorted({text for text in texts if _is_text(text)}), pa.string())
    rows: dict[str, int] = {}
    for batch in store.samples.batches("row", "id"):
        mask = pc.is_in(batch["id"], value_set=wanted)
        hits = batch.filter(mask)
        rows |= zip(hits["id"].to_pylist(), hits["row"].to_pylist(), strict=True)
    return rows


def _samples_of_paths(store: Store, paths: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Return (row, id) by absolute path, for those of the paths that are files of samples."""
    known: dict[str, tuple[int, str]] = {}
    if not paths:
        return known
    spelled: dict[str, dict[str, str]] = {}  # root -> uri -> path
    for part in store.samples.parts:
        if part.root not in spelled:
            spelled[part.root] = {
                uri: path for path in paths for uri in _spellings(path, part.root)
            }
    ends, first = [], 0
    for part in store.samples.parts:
        first += part.rows
        ends.append((first, part.root))
    for batch in store.samples.batches("row", "id", "uri"):
        if not len(batch):
            continue
        row = batch["row"][0].as_py()
        uris = spelled[next(root for end, root in ends if row < end)]
        hits = batch.filter(pc.is_in(batch["uri"], value_set=pa.array(list(uris), pa.string())))
        columns = (hits[name].to_pylist() for name in ("row", "id", "uri"))
        known |= {uris[uri]: (row, sample_id) for row, sample_id, uri in zip(*columns, strict=True)}
    return known


def _spellings(path: str, root: str) -> set[str]:
    """Return the uris that a source of this root may have given to a file."""
    uris = {path_to_uri(path)}
    for file, base in ((path, root), (os.path.realpath(path), os.path.realpath(root))):
        if file.startswith(base.rstrip(os.sep) + os.sep):
            uris.add(path_to_uri(os.path.relpath(file, base)))
    return uris


def _file_query(text: str, path: str, known: dict[str, tuple[int, str]]) -> FileQuery | FungiError:
    row, views = known.get(path, (None, None))
    if views is None:
        try:
            with Path(path).open("rb") as file:
                views = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            return ImageError("the image cannot be read", where=text, found=error.strerror)
    folder, name = os.path.split(path)
    return FileQuery(text, folder, path_to_uri(name), views, row)


def _unknown(store: Store, text: str) -> UsageError:
    ids = (id_ for batch in store.samples.batches("id") for id_ in batch["id"].to_pylist())
    near = difflib.get_close_matches(text, list(islice(ids, NEAR_IDS_SEARCHED)), n=1)
    return UsageError(
        "a query is neither an image file nor a sample id",
        where=text,
        expected="the path of an image, or an id of the sample table, such as "
        + repr(next((id_ for b in store.samples.batches("id") for id_ in b["id"].to_pylist()), "")),
        hint=f"did you mean {near[0]!r}?" if near else None,
    )


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return False


def _is_text(text: str) -> bool:
    """Whether a query is text that a sample id could be; odd bytes of a path are not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
