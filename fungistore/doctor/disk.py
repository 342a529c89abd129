"""A folder's disk: room, speed, and whether what a commit relies on works there."""

from __future__ import annotations

import errno
import hashlib
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fungistore.doctor.check import Check, failed, passed, warned
from fungistore.quantities import counted, size
from fungistore.store.durable import partial_path, publish_bytes, sync

BLOCK = 4 << 20
MOST_BLOCKS = 16  # 64 MB
MOST_SECONDS = 1.0  # of writing, and of commits: a slow disk is known by then
RECORDS = 20
ROOM_FOR_TEST = 4 * BLOCK * MOST_BLOCKS
LEAST_FREE = 100e6
GOOD_FREE = 5e9  # patch tensors of 25,000 images: 16 x 16 x 384 float16
LEAST_INODES = 10_000  # a store has two files a unit and array
SLOW_WRITE = 20e6  # bytes a second: a patch unit of 100 MB would take 5 s
SLOW_RECORD = 0.1  # seconds: with ten arrays, a minute's unit would take a second longer


@dataclass(frozen=True)
class Space:
    """Free bytes and files of a disk; `files` is None where it has no such limit."""

    bytes: int
    files: int | None


@dataclass(frozen=True)
class Speed:
    """A disk's speed.

    Attributes:
        written: bytes a second, flushed to the disk.
        read: bytes a second, past the page cache where the system allows it.
        record: seconds that publishing a small file takes (median).
        is_sound: whether what was read is what was written.
    """

    written: float
    read: float
    record: float
    is_sound: bool


def check_disk(folder: Path) -> Iterator[Check]:
    """Check a folder's disk; writes and removes 64 MB there, or less where it is slow."""
    space = free_space(folder)
    yield judge_space(folder, space)
    if not os.access(folder, os.W_OK):
        yield judge_unwritable(folder)
        return
    if space.bytes < ROOM_FOR_TEST:
        yield warned("disk speed", f"not tested: {size(space.bytes)} free", "free some room")
        return
    try:
        yield judge_speed(measure(folder))
    except OSError as error:
        yield judge_error(folder, error)


def free_space(folder: Path) -> Space:
    """Return what is free for this user."""
    found = os.statvfs(folder)
    return Space(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None)


def judge_space(folder: Path, space: Space) -> Check:
    """Judge the room on a disk."""
    found = f"{size(space.bytes)} free at {folder}"
    fix = "free some, or put the store on another disk; fungi extract --dry-run tells its size"
    if space.bytes < LEAST_FREE:
        return failed("disk space", found, fix)
    if space.files is not None and space.files < LEAST_INODES:
        return warned(
            "disk space",
            f"{found}, for {counted(space.files, 'file')} at most",
            "remove small files, or give a larger --unit-rows: fewer files",
        )
    if space.bytes < GOOD_FREE:
        return warned("disk space", found, fix)
    return passed("disk space", found)


def judge_unwritable(folder: Path) -> Check:
    """Judge a folder that this user may not write into."""
    return warned(
        "disk speed",
        f"not tested: {folder} cannot be written to; reading a store there works",
        "to write, be given access, or copy the store with cp -r",
    )


def judge_speed(speed: Speed) -> Check:
    """Judge a disk's speed."""
    found = (
        f"write {size(speed.written)}/s flushed, read back {size(speed.read)}/s, "
        f"a record in {speed.record * 1e3:.1f} ms; rename and fsync work"
    )
    if not speed.is_sound:
        return failed("disk speed", "other bytes were read than written", "do not use this disk")
    if speed.written < SLOW_WRITE:
        return warned("disk speed", found, "put the store on a local disk, and copy it when done")
    if speed.record > SLOW_RECORD:
        return warned("disk speed", found, "give a larger --unit-rows: fewer commits")
    return passed("disk speed", found)


def judge_error(folder: Path, error: OSError) -> Check:
    """Judge what a disk refused: a full one, or a file system without rename or fsync."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return failed("disk speed", f"{folder}: {error.strerror}", "free some room")
    return failed(
        "disk speed",
        f"{folder}: {error.strerror or error}",
        "commits need rename, and fsync of files and folders: put the store on a local disk",
    )


def measure(folder: Path) -> Speed:
    """Write, flush and read back a file, then publish small ones as commits do.

    Raises:
        OSError: something of that does not work here.
    """
    path = partial_path(folder / "doctor")  # the name of an orphan: a kill leaves what is swept
    try:
        count, digest, written = _write(path)
        read, is_sound = _read(path, count, digest)
        record = _record_seconds(path)
    finally:
        path.unlink(missing_ok=True)
    return Speed(count / written, count / read, record, is_sound)


def _write(path: Path) -> tuple[int, bytes, float]:
    block = os.urandom(BLOCK)  # what cannot be compressed or deduplicated
    state, count = hashlib.blake2b(), 0
    began = time.perf_counter()
    hashing = 0.0
    with path.open("wb", buffering=0) as file:
        while count < MOST_BLOCKS and time.perf_counter() - began < MOST_SECONDS:
            changed = count.to_bytes(8, "little") + block[8:]
            before = time.perf_counter()
            state.update(changed)
            hashing += time.perf_counter() - before
            file.write(changed)
            count += 1
        os.fsync(file.fileno())
    return count * BLOCK, state.digest(), time.perf_counter() - began - hashing


def _read(path: Path, count: int, digest: bytes) -> tuple[float, bool]:
    state, reading = hashlib.blake2b(), 0.0
    with path.open("rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, count, os.POSIX_FADV_DONTNEED)
        while True:
            before = time.perf_counter()
            data = file.read(BLOCK)
            reading += time.perf_counter() - before
            if not data:
                break
            state.update(data)
    return max(reading, 1e-9), state.digest() == digest


def _record_seconds(path: Path) -> float:
    sync(path.parent)  # what earlier writes left to flush is not the records' business
    seconds: list[float] = []
    while len(seconds) < RECORDS and sum(seconds) < MOST_SECONDS:
        began = time.perf_counter()
        publish_bytes(path, b"{}" * 100)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
