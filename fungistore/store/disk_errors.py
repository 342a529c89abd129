"""Errors of the disk, explained: it is full, read-only, or not ours to write on."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from fungistore.errors import FungiError, UsageError

FULL = (errno.ENOSPC, errno.EDQUOT)
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
HINTS = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room in your quota",
    errno.EROFS: "make the file system writable",
    errno.EACCES: "get permission to write there",
}


HDF5_ERRNO = re.compile(r"errno = (\d+)")  # HDF5 reports what the disk said as a RuntimeError


@contextmanager
def disk_errors_explained(
    where: object, consequence: str = "what was committed is kept"
) -> Iterator[None]:
    """Turn a full or read-only disk, met while a stage writes, into a FungiError.

    Args:
        where: what is written, where the error does not name a file.
        consequence: what became of what was done.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        said = HDF5_ERRNO.search(str(error))
        number = error.errno if isinstance(error, OSError) else said and int(said[1])
        if isinstance(error, RuntimeError) and number is None:
            raise
        raise FungiError(
            "a file cannot be read or written",
            where=getattr(error, "filename", None) or where,
            found=getattr(error, "strerror", None) or str(error),
            hint=f"{HINTS.get(number or 0, 'mend that')}, then run the same command again: "
            f"{consequence}",
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
