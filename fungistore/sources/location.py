"""From a sample's uri to the file and the bytes in it, and back.

A uri is spelled in one of three ways; all are plain text that any file format can store:

    cats/001.jpg                                a path, relative to the source's root or absolute
    bytes:cats/caf%E9.jpg                       a path that is not UTF-8, or reads like another
                                                spelling: every odd byte percent-encoded
    a-000.tar#offset=1536&size=20480&ext=jpg    a tar member: one open, seek and read away
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

_BYTES = "bytes:"
# Python hands out the undecodable bytes of a path as lone surrogates, which no text format takes.
_UNDECODED = re.compile("[\ud800-\udfff]")
_MEMBER = re.compile(r"(.+)#offset=([0-9]{1,18})&size=([0-9]{1,18})&ext=\w+", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Location:
    """A file, or `size` bytes of it from `offset` where size is not None."""

    path: str
    offset: int = 0
    size: int | None = None

    def measure(self) -> tuple[int | None, float | None]:
        """Return the encoded size in bytes and the file's mtime; twice None if it is missing."""
        try:
            info = Path(self.path).stat()
        except (OSError, ValueError):  # ValueError: a NUL in the path
            return None, None
        return (info.st_size if self.size is None else self.size), info.st_mtime


def path_to_uri(path: str) -> str:
    """Spell a path, as Python's os module gives it, so that it can be stored as text."""
    if path.startswith(_BYTES) or _MEMBER.fullmatch(path) or _UNDECODED.search(path):
        return _BYTES + quote_from_bytes(os.fsencode(path))
    return path


def member_to_uri(shard: str, offset: int, size: int, extension: str) -> str:
    """Spell the place of an image in a tar shard."""
    return f"{path_to_uri(shard)}#offset={offset}&size={size}&ext={extension}"


def locate(root: str, uri: str) -> Location:
    """Undo `path_to_uri` and `member_to_uri`, resolving relative paths against root."""
    member = _MEMBER.fullmatch(uri)
    path = str(Path(root, uri_to_path(member[1] if member else uri)))
    return Location(path, int(member[2]), int(member[3])) if member else Location(path)


def uri_to_path(uri: str) -> str:
    """Undo `path_to_uri`."""
    if uri.startswith(_BYTES):
        return os.fsdecode(unquote_to_bytes(uri.removeprefix(_BYTES)))
    return uri


def absolute_uri(root: str, uri: str) -> str:
    """Spell a uri of a source with this root so that it means the same under any other root."""
    member = _MEMBER.fullmatch(uri)
    path = path_to_uri(locate(root, uri).path)
    return path + uri.removeprefix(member[1]) if member else path
