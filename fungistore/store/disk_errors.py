"""Errors of the disk, explained: it is full, read-only, or not ours to write on."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fungistore.errors import FungiError, UsageError

FULL = (errno.ENOSPC, errno.EDQUOT)
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
HINTS = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room in your quota",
    errno.EROFS: "make the file system writable",
    errno.EACCES: "get permission to write there",
}


@contextmanager
def disk_errors_explained(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk, met while a stage writes below `path`, into a FungiError."""
    try:
        yield
    except OSError as error:
        raise FungiError(
            "the store, or a file that it needs, cannot be used",
            where=error.filename or path,
            found=error.strerror or str(error),
            hint=f"{HINTS.get(error.errno or 0, 'mend that')}, then run the same command again: "
            "what was committed is kept",
        ) from error


def unwritable(what: str, where: object, error: OSError) -> FungiError:
    """Return the error for a file that the user named: its place is bad usage, a full disk not."""
    kind = FungiError if error.errno in FULL else UsageError
    todo = HINTS.get(error.errno or 0)
    return kind(
        what,
        where=where,
        found=error.strerror or str(error),
        hint=f"{todo}, then run the same command again" if todo else None,
    )
