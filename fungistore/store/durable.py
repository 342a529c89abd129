"""Files that are either there and whole, or not there: temporary file, fsync, rename, fsync."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

PARTIAL = ".partial"  # zarr's own suffix for files being written, so one sweep finds both
FLUSHES_AT_ONCE = 16
ORPHAN = re.compile(r".+\.[0-9a-f]{32}\.partial")


def partial_path(path: Path) -> Path:
    """Return a unique name beside `path`: hidden from readers, recognisable after a crash."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}{PARTIAL}")


def sync(path: Path) -> None:
    """Flush a file or a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(paths: Collection[Path]) -> None:
    """Flush files and directories at once: a file system writes down what is asked together."""
    if len(paths) < 2:
        for path in paths:
            sync(path)
        return
    with ThreadPoolExecutor(min(len(paths), FLUSHES_AT_ONCE), "fungi-flush") as pool:
        for _ in pool.map(sync, paths):
            pass


def publish(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, then make it appear as `path` at once."""
    make_directory(path.parent)
    temporary = partial_path(path)
    try:
        write(temporary)
        sync(temporary)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def publish_all(
    files: Mapping[Path, Sequence[bytes | memoryview]], changed: Collection[Path] = ()
) -> None:
    """Write files durably, each given in pieces, and each atomically; their folders are there.

    All are written, then all are flushed, then all are renamed, then their folders are flushed,
    with those in which folders were `changed` for them.
    """
    temporary = {path: partial_path(path) for path in files}
    try:
        for path, pieces in files.items():
            with temporary[path].open("wb", buffering=0) as file:
                for piece in pieces:
                    _write_all(file, memoryview(piece))
        sync_all(temporary.values())
        for path, part in temporary.items():
            part.rename(path)
    except BaseException:
        for part in temporary.values():
            part.unlink(missing_ok=True)
        raise
    sync_all({path.parent for path in files} | set(changed))


def publish_bytes(path: Path, *pieces: bytes | memoryview) -> None:
    """Write a file of some bytes durably and atomically, replacing what was there."""
    make_directory(path.parent)
    publish_all({path: pieces})


def file_digest(path: Path) -> str:
    """Return 32 hexadecimal digits that identify a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def orphans(root: Path) -> Iterator[Path]:
    """Yield what interrupted writes, ours and zarr's, left behind below a directory."""
    for directory, folders, files in os.walk(root):
        for name in [*folders, *files]:
            if ORPHAN.fullmatch(name):
                yield Path(directory, name)


def make_directory(path: Path) -> None:
    """Make a directory and its parents, so that none of them is lost in a power cut."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def _write_all(file: FileIO, data: memoryview) -> None:
    """Write all bytes: the system may take a large piece in parts."""
    while data:
        data = data[file.write(data) :]
