"""Files of the cache: opened, written in parts, touched, and counted as the disk counts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

DATA, PAGES = ".data", ".pages"
BLOCK_BYTES = 4096  # of a disk: a file takes whole ones


def open_file(path: Path) -> int:
    """Return a file's descriptor, to read and write; it and its folder are made if need be."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def write_at(descriptor: int, data: bytes, at: int) -> None:
    """Write all of some bytes at a place."""
    view = memoryview(data)
    while view:
        done = os.pwrite(descriptor, view, at)
        view, at = view[done:], at + done


def touch(path: Path, ahead: int = 0) -> None:
    """Note that a file is in use now, or for some seconds."""
    with suppress(OSError):
        os.utime(path)
        if ahead:
            then = path.stat().st_mtime + ahead
            os.utime(path, (then, then))


def time_there(descriptor: int) -> float:
    """Return the time by the clock of a file's file system."""
    os.utime(descriptor)
    return os.stat(descriptor).st_mtime


def on_disk(size: int) -> int:
    """Return about how much of a disk some bytes take."""
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def files_of(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Yield (when it was used last, its bytes on the disk, the path) of the files of objects.

    The entries of a file's pages count with it; those whose file has gone are files themselves.
    """
    with suppress(FileNotFoundError), os.scandir(folder) as below:
        for one in below:
            if not one.is_dir(follow_symlinks=False):
                continue
            found: dict[str, os.stat_result] = {}
            with suppress(FileNotFoundError), os.scandir(one.path) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        found[entry.name] = entry.stat()
            for name, info in found.items():
                stem, dot, suffix = name.rpartition(".")
                if dot + suffix == PAGES and stem + DATA in found:
                    continue
                pages = found.get(stem + PAGES) if dot + suffix == DATA else None
                blocks = info.st_blocks + (pages.st_blocks if pages else 0)
                yield info.st_mtime, blocks * 512, Path(one.path, name)
