"""The bytes that a uri stands for, as a stream; what they mean is the modality's affair."""

from __future__ import annotations

import stat
from io import BufferedReader, BytesIO
from pathlib import Path

from fungistore.errors import ItemError
from fungistore.sources.location import locate


def open_item(root: str, uri: str) -> BytesIO | BufferedReader:
    """Open what a source of this root calls `uri`; safe to call from many threads.

    Raises:
        ItemError: it is empty, not a regular file, or beyond the end of its shard.
        OSError, ValueError: the file cannot be opened.
    """
    location = locate(root, uri)
    if location.content is not None:
        if not location.content:
            raise ItemError("there is nothing in it")
        return BytesIO(location.content)
    path = Path(location.path)
    info = path.stat()
    if not stat.S_ISREG(info.st_mode):  # opening a pipe would wait for ever
        raise ItemError("this is not a regular file")
    size = info.st_size if location.size is None else location.size
    if size == 0:
        raise ItemError("the file is empty")
    if location.offset + size > info.st_size:
        raise ItemError("the shard ends before this item does")
    file = path.open("rb")
    if location.size is None:
        return file
    with file:
        file.seek(location.offset)
        return BytesIO(file.read(size))
