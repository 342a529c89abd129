"""From a sample's uri to the file and the bytes in it, and back.

A uri is spelled in one of six ways; all are plain text that any file format can store:

    cats/001.jpg                                a path, relative to the source's root or absolute,
                                                or a URL, as any path below may be
    bytes:cats/caf%E9.jpg                       a path that is not UTF-8, or reads like another
                                                spelling: every odd byte percent-encoded
    a-000.tar#offset=1536&size=20480&ext=jpg&head=512-1c291ca3
                                                a tar member: one open, seek and read away; `head`
                                                is how long the member's header before it is, and
                                                its CRC-32: of a shard that was packed anew, it is
                                                another. `&flaw=...` says why it is not to be read
    a.parquet#in=parquet&at=image%2C7&size=9000&mark=1c291ca3
                                                an item inside a file of a kind that
                                                `fungistore.containers` reads, by its key, every odd
                                                byte percent-encoded; the file has so many bytes, 0
                                                where nobody knows, and its ends this CRC-32: of a
                                                file that was written anew, it is another
    data:,hello%20world                         the item itself, as RFC 2397 spells it: every byte
                                                but letters, digits and _.-~/ percent-encoded
    talk.wav#from=1.5&to=3.25                   a span of what one of the others spells, which is
                                                from this second to that; without one of the two,
                                                from the beginning or to the end
"""

from __future__ import annotations

import errno
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from fungistore.remote import files
from fungistore.remote.places import joined
from fungistore.remote.urls import is_url
from fungistore.text import beginning

_BYTES = "bytes:"
_INLINE = "data:,"
_RESERVED = (_BYTES, "data:")  # paths that start so are spelled with bytes:
# Python hands out the undecodable bytes of a path as lone surrogates, which no text format takes.
_UNDECODED = re.compile("[\ud800-\udfff]")
_ODD_BYTES = "surrogateescape"
_LONGEST_SHOWN = 80  # characters of an inline item
_LONGEST_SPELLED = 12  # bytes of a uri for one of them, four of which are percent-encoded
_END_BYTES = 1 << 16
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
LATEST = 999_999_999  # second of a span
_SECOND = r"(?:0|[1-9][0-9]{0,8})(?:\.[0-9]{0,8}[1-9])?"  # each has one spelling
_SPAN = re.compile(rf"(.+)#from=({_SECOND})?&to=({_SECOND})?", re.DOTALL)
LIVE = "#in=dataset&"  # in the uri of what only the process has that was passed it
_CONTAINED = re.compile(
    r"(.+)#in=([a-z0-9_]+)&at=([^&#]*)&size=([0-9]{1,18})(?:&mark=([0-9a-f]{8}))?", re.DOTALL
)
_MEMBER = re.compile(
    r"(?P<shard>.+)#offset=(?P<offset>[0-9]{1,18})&size=(?P<size>[0-9]{1,18})&ext=\w+"
    r"(?:&head=(?P<head>[0-9]{1,9})-(?P<crc>[0-9a-f]{8}))?(?:&flaw=(?P<flaw>[\w.~%/-]+))?",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Span:
    """A part of an item that lasts: from this second to that; None: its beginning, or its end."""

    start: float | None = None
    end: float | None = None


@dataclass(frozen=True, slots=True)
class Location:
    """A file, or `size` bytes of it from `offset` where size is not None.

    Of an inline item, `content` is its bytes, and the path is empty. `head` is the length and the
    CRC-32 of what is right before a member as it was listed; `flaw` is why it is not to be read. Of
    an item inside a file, `container` is the kind of the file, `key` says which item it is,
    `file_size` how many bytes the file had, 0 where that is not known, and `mark` is of its ends.
    """

    path: str
    offset: int = 0
    size: int | None = None
    content: bytes | None = None
    head: tuple[int, int] | None = None
    flaw: str | None = None
    container: str = ""
    key: str = ""
    file_size: int = 0
    mark: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether it is all of a file."""
        return self.content is None and self.size is None and not self.container

    def exists(self) -> bool:
        """Whether the file is there, as an inline item always is.

        Raises:
            OSError: nobody can tell, as for want of permission or of a disk that answers.
        """
        is_no_file = self.content is not None or (self.container and not self.file_size)
        return bool(is_no_file) or is_there(self.path)

    def measure(self) -> tuple[int | None, float | None]:
        """Return the encoded size in bytes and the file's mtime, None where there is none.

        A missing file has neither, an inline item no mtime, an item inside a file no size.
        """
        if self.content is not None:
            return len(self.content), None
        if is_url(self.path):
            size, time = files.measure(self.path)
            return self.measured(size, time)
        try:
            info = Path(self.path).stat()
        except (OSError, ValueError):  # ValueError: a NUL in the path
            return None, None
        return self.measured(info.st_size, info.st_mtime)

    def measured(self, size: int | None, time: float | None) -> tuple[int | None, float | None]:
        """Return the same, where the size and the time of its file are known."""
        if self.container or size is None:
            return None, time
        return (size if self.size is None else self.size), time


def is_there(path: str) -> bool:
    """Whether there is such a file or folder, as `os.path.exists` tells where it can tell.

    Raises:
        OSError: it may be there, and cannot be looked at.
    """
    try:
        if is_url(path):
            return files.is_there(path)
        os.stat(path)
    except ValueError:  # a NUL in the path
        return False
    except OSError as error:
        if error.errno in _NOT_THERE:
            return False
        raise
    return True


def path_to_uri(path: str) -> str:
    """Spell a path, as Python's os module gives it, so that it can be stored as text.

    The text of its bytes is UTF-8's, whatever the locale's encoding is: under another one the same
    file has the same name.
    """
    path = os.fsencode(path).decode("utf-8", _ODD_BYTES)
    is_taken = any(spelling.fullmatch(path) for spelling in (_MEMBER, _CONTAINED, _SPAN))
    if path.startswith(_RESERVED) or is_taken or _UNDECODED.search(path):
        return _BYTES + quote_from_bytes(path.encode("utf-8", _ODD_BYTES))
    return path


def member_to_uri(
    shard: str, offset: int, size: int, extension: str, header: bytes, flaw: str | None = None
) -> str:
    """Spell the place of an item in a tar shard; `header` is what is before it."""
    place = f"{path_to_uri(shard)}#offset={offset}&size={size}&ext={extension}"
    why = f"&flaw={quote_from_bytes(flaw.encode(errors='backslashreplace'))}" if flaw else ""
    return f"{place}&head={len(header)}-{zlib.crc32(header):08x}{why}"


def contained_uri(file: str, kind: str, key: str, size: int, mark: str = "") -> str:
    """Spell an item inside a file.

    Args:
        file: path of the file.
        kind: of the file, a name of a container.
        key: of the item in it.
        size: bytes of the file; 0 where it is no file of the disk.
        mark: of its ends, as `mark_of` has it; "" where it has none.
    """
    place = f"{path_to_uri(file)}#in={kind}&at={quote_from_bytes(key.encode(), safe='')}"
    return f"{place}&size={size}" + (f"&mark={mark}" if mark else "")


def mark_of(path: str) -> str:
    """Return the CRC-32 of a file's first and last 64 KiB: formats keep there what is in them."""
    if is_url(path):
        size = files.look(path).size
        length = min(size, _END_BYTES)
        ends = [files.read_range(path, start, length) for start in (0, size - length) if size]
        return f"{zlib.crc32(b''.join(ends)):08x}"
    with open(path, "rb") as file:
        crc = zlib.crc32(file.read(_END_BYTES))
        file.seek(max(0, os.fstat(file.fileno()).st_size - _END_BYTES))
        return f"{zlib.crc32(file.read(_END_BYTES), crc):08x}"


def inline_uri(content: bytes) -> str:
    """Spell an item that stands in no file."""
    return _INLINE + quote_from_bytes(content)


def span_uri(uri: str, span: Span) -> str:
    """Spell a span of an item; all of it is the item itself."""
    if span == Span():
        return uri
    return f"{uri}#from={_second(span.start)}&to={_second(span.end)}"


def split_span(uri: str) -> tuple[str, Span | None]:
    """Return the uri of an item, and the span of it that is meant."""
    part = _SPAN.fullmatch(uri)
    if part is None:
        return uri, None
    start, end = (float(time) if time else None for time in part.groups()[1:])
    return part[1], Span(start, end)


def _second(time: float | None) -> str:
    return "" if time is None else f"{time:.9f}".rstrip("0").rstrip(".")


def is_inline(uri: str) -> bool:
    """Whether a uri is the item itself."""
    return uri.startswith(_INLINE)


def locate(root: str, uri: str) -> Location:
    """Undo the spellings above but for spans, resolving relative paths against root."""
    uri, _ = split_span(uri)
    if is_inline(uri):
        return Location("", content=unquote_to_bytes(uri.removeprefix(_INLINE)))
    if inside := _CONTAINED.fullmatch(uri):
        path = joined(root, uri_to_path(inside[1]))
        key = unquote_to_bytes(inside[3]).decode(errors="replace")
        size, mark = int(inside[4]), inside[5] or ""
        return Location(path, container=inside[2], key=key, file_size=size, mark=mark)
    member = _MEMBER.fullmatch(uri)
    path = joined(root, uri_to_path(member["shard"] if member else uri))
    if member is None:
        return Location(path)
    head = (int(member["head"]), int(member["crc"], 16)) if member["head"] else None
    flaw = unquote_to_bytes(member["flaw"]).decode(errors="replace") if member["flaw"] else None
    return Location(path, int(member["offset"]), int(member["size"]), head=head, flaw=flaw)


def uri_to_path(uri: str) -> str:
    """Undo `path_to_uri`."""
    if uri.startswith(_BYTES):
        return os.fsdecode(unquote_to_bytes(uri.removeprefix(_BYTES)))
    return os.fsdecode(uri.encode("utf-8", _ODD_BYTES))


def absolute_uri(root: str, uri: str) -> str:
    """Spell a uri of a source with this root so that it means the same under any other root."""
    bare, span = split_span(uri)
    if span:
        return absolute_uri(root, bare) + uri.removeprefix(bare)
    if is_inline(uri):
        return uri
    member = _CONTAINED.fullmatch(uri) or _MEMBER.fullmatch(uri)
    path = path_to_uri(locate(root, uri).path)
    return path + uri.removeprefix(member[1]) if member else path


def shortened(uri: str) -> str:
    """Return a uri for a message: of an inline item the beginning, as it reads."""
    if not is_inline(uri):
        return uri
    content = unquote_to_bytes(uri.removeprefix(_INLINE)[: _LONGEST_SHOWN * _LONGEST_SPELLED])
    return f"'{beginning(content.decode(errors='replace'), _LONGEST_SHOWN)}'"
