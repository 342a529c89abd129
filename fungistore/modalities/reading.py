"""From a uri to its bytes and to an item, whatever the modality; what goes wrong is its error."""

from __future__ import annotations

import hashlib
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any

from fungistore.containers.container import read_contained
from fungistore.errors import ItemError, UnreachableError, UsageError
from fungistore.location import locate, path_to_uri, shortened, split_span
from fungistore.modalities.fetching import PACKED_ANEW, TOO_SHORT, fetch
from fungistore.modalities.modality import Modality, has_spans, with_article
from fungistore.remote.places import refuse_secrets
from fungistore.remote.urls import is_url

# Enough of a decoder's own words for one line of a failure record.
_REASON_LENGTH = 120
MOST_HELD = 1 << 26  # bytes: larger files are decoded from the disk, and read once more
DIGEST_BYTES = 8
_FILES_KNOWN = 256  # whose digests are kept, while spans of them are read
Fetched = bytes | Exception | None
SMALLEST_DIGEST = 2  # smaller numbers stand for digests that are not there


def open_item(root: str, uri: str, fetched: Fetched = None) -> BytesIO | BufferedReader:
    """Open what a source of this root calls `uri`; safe to call from many threads.

    Args:
        root: of the source.
        uri: of the item.
        fetched: its bytes, or what went wrong, where they were asked for ahead.

    Raises:
        ItemError: it is empty, not a regular file, or a member of a shard that is flawed, beyond
            the shard's end, or no longer where it was listed.
        OSError, ValueError: the file cannot be opened.
    """
    location = locate(root, uri)
    if location.flaw:
        raise ItemError(location.flaw)
    if location.content is not None:
        if not location.content:
            raise ItemError("there is nothing in it")
        return BytesIO(location.content)
    if fetched is not None:
        return BytesIO(_whole(fetched))
    if location.container:
        return BytesIO(read_contained(location))
    if is_url(location.path):
        return BytesIO(_whole(fetch(location)))
    path = Path(location.path)
    info = path.stat()
    if not stat.S_ISREG(info.st_mode):  # opening a pipe would wait for ever
        raise ItemError("this is not a regular file")
    size = info.st_size if location.size is None else location.size
    if size == 0:
        raise ItemError("the file is empty")
    if location.offset + size > info.st_size:
        raise ItemError(TOO_SHORT)
    file = path.open("rb")
    if location.size is None:
        return file
    before, checksum = location.head or (0, 0)
    with file:
        file.seek(max(0, location.offset - before))
        header, content = file.read(before), file.read(size)
    if location.head and zlib.crc32(header) != checksum:
        raise ItemError(PACKED_ANEW)
    return BytesIO(content)


def _whole(fetched: bytes | Exception) -> bytes:
    if isinstance(fetched, Exception):
        raise fetched
    if not fetched:
        raise ItemError("the file is empty")
    return fetched


def rescue_item(modality: Modality, root: str, uri: str, fetched: Fetched = None) -> Any:
    """Return as much as can be read of an item that `read_item` cannot; None where nothing can."""
    rescue = getattr(modality, "rescue", None)
    if rescue is None:
        return None
    try:
        with open_item(root, uri, fetched) as stream:
            return _in_span(modality, rescue, uri)(stream)
    except Exception:  # as in `read_item`, which has said what is wrong
        return None


def read_item(modality: Modality, root: str, uri: str) -> Any:
    """Return the item that a source of this root calls `uri`; safe to call from many threads.

    Raises:
        ItemError: the modality's own, for everything that does not end in an item: a missing,
            empty, truncated or foreign file, or anything that its decoder raises.
    """
    with _explained(modality, uri), open_item(root, uri) as stream:
        return _in_span(modality, modality.read, uri)(stream)


def read_text_of(modality: Modality, root: str, uri: str) -> str | None:
    """Return the text that an item is; None of items that are no text, or cannot be read."""
    text_of = getattr(modality, "text_of", None)
    if text_of is None:
        return None
    try:
        return str(text_of(read_item(modality, root, uri)))
    except ItemError:
        return None


def read_with_digest(
    modality: Modality, root: str, uri: str, fetched: Fetched = None
) -> tuple[Any, int]:
    """Return an item, and the digest of the bytes that it was decoded from; see `open_item`.

    Raises:
        ItemError: as `read_item`.
    """
    with _explained(modality, uri):
        with open_item(root, uri, fetched) as stream:
            if split_span(uri)[1]:
                item = _in_span(modality, modality.read, uri)(stream)
                return item, digest_item(root, uri)
            content = stream.read(MOST_HELD + 1) if fetched is None else stream.read()
            if len(content) <= MOST_HELD or fetched is not None:
                digest = hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()
                return modality.read(BytesIO(content)), _as_number(digest)
            stream.seek(0)
            item = modality.read(stream)
        return item, digest_item(root, uri)


def digest_item(root: str, uri: str) -> int:
    """Return 64 bits that identify an item's bytes, of at least SMALLEST_DIGEST.

    Those of a span are the item's and the span's own.

    Raises:
        ItemError, OSError, ValueError: as `open_item`.
    """
    bare, span = split_span(uri)
    if span is None:
        return _as_number(_digest_bytes(root, uri))
    of_item = _digest_once(root, bare, locate(root, bare).measure())
    words = of_item + uri.removeprefix(bare).encode()
    return _as_number(hashlib.blake2b(words, digest_size=DIGEST_BYTES).digest())


@lru_cache(maxsize=_FILES_KNOWN)
def _digest_once(root: str, uri: str, stamp: tuple[int | None, float | None]) -> bytes:
    """Return the digest of a file that many samples are spans of; `stamp` is its size and time."""
    return _digest_bytes(root, uri)


def _digest_bytes(root: str, uri: str) -> bytes:
    with open_item(root, uri) as stream:
        new = partial(hashlib.blake2b, digest_size=DIGEST_BYTES)
        return hashlib.file_digest(stream, new).digest()


def _in_span(modality: Modality, read: Callable[..., Any], uri: str) -> Callable[..., Any]:
    """Return what reads the span that a uri means.

    Raises:
        ItemError: the modality has none.
    """
    span = split_span(uri)[1]
    if span is None:
        return read
    if not has_spans(modality):
        raise ItemError(f"{with_article(modality.item)} has no spans of time")
    return partial(read, span=span)


def _as_number(digest: bytes) -> int:
    return max(int.from_bytes(digest, "little"), SMALLEST_DIGEST)


@contextmanager
def _explained(modality: Modality, uri: str) -> Iterator[None]:
    """Turn whatever reading an item raises into the modality's own error."""
    try:
        yield
    except UnreachableError:  # is nothing about this item
        raise
    except ItemError as error:
        if isinstance(error, modality.error):
            error.where = shortened(uri)
            raise
        raise modality.error(error.what, where=shortened(uri)) from error
    # Damaged files make decoders raise nearly anything, MemoryError and SyntaxError included.
    except Exception as error:
        is_of_the_disk = isinstance(error, OSError) and error.errno is not None
        verb = "read" if is_of_the_disk else "decoded"
        what = f"the {modality.item} cannot be {verb}: {reason_of(error)}"
        raise modality.error(what, where=shortened(uri)) from error


def reason_of(error: Exception) -> str:
    """Return what a decoder's error says, on one line of bounded length."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return reason.splitlines()[0][:_REASON_LENGTH]


def uri_of_file(text: str, item: str) -> str:
    """Return the absolute uri of the file that a user names, for modalities of files.

    Raises:
        UsageError: there is no such file; `item` is what it should hold, such as "image".
    """
    if is_url(text):
        refuse_secrets(text)
        return text
    try:
        is_file, is_folder = Path(text).is_file(), Path(text).is_dir()
    except (OSError, ValueError):  # ValueError: a NUL in the path
        is_file = is_folder = False
    if not is_file:
        what = f"a folder, not one {item}" if is_folder else "there is no such file"
        raise UsageError(what, where=text, hint=f"paths of {item} files")
    return path_to_uri(os.path.abspath(text))
