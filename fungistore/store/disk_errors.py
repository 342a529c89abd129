"""Errors of the disk: what they say about stored bytes, and how they are told to a user."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from fungistore.errors import FungiError, StoreError, UsageError

FULL = (errno.ENOSPC, errno.EDQUOT)
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)
HINTS = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room in your quota",
    errno.EROFS: "make the file system writable",
    errno.EACCES: "get permission to read and write there",
}

NO_THREAD = "can't start new thread"  # what Python raises under a limit of processes
HDF5_ERRNO = re.compile(r"errno = (\d+)")  # HDF5 reports what the disk said as a RuntimeError


def is_unreadable(error: BaseException) -> bool:
    """Whether an error says nothing about a file but that it cannot be read now.

    A permission, a disk or a network that fails, too many open files or threads, too little memory:
    what is stored may be sound, so nothing may take it for damaged or absent. No such file, or a
    folder in its place, does say something; so does an OSError without a number, which is what
    Arrow raises on bytes that it cannot parse.
    """
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in ABSENT
    is_out_of_threads = isinstance(error, RuntimeError) and str(error) == NO_THREAD
    return isinstance(error, MemoryError) or is_out_of_threads


def raise_unreadable(error: BaseException) -> None:
    """Raise an error again if it says nothing about what is stored; see `is_unreadable`."""
    if is_unreadable(error):
        raise error


@contextmanager
def damage_explained(what: str, where: object, hint: str | None = None) -> Iterator[None]:
    """Turn what reading missing or damaged bytes raises, whatever it is, into a StoreError.

    What cannot be read, as `is_unreadable` tells, is no damage: that error goes on as it is.
    """
    try:
        yield
    except Exception as error:  # codecs, zarr, Arrow and safetensors have their own types
        if isinstance(error, FungiError) or is_unreadable(error):
            raise
        found = (isinstance(error, OSError) and error.strerror) or error
        raise StoreError(what, where=where, found=found, hint=hint) from error


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
