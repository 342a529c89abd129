"""Units against their records: every committed chunk is read, hashed and counted, in parallel."""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Condition
from typing import IO, Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from fungistore.machine.context import Context
from fungistore.machine.resources import reading_threads
from fungistore.store.store import Store
from fungistore.store.units import Commit, UnitArray, checksum, parse_commit
from fungistore.verification.commands import command_for_array
from fungistore.verification.findings import Finding, Kind, Remedy
from fungistore.verification.layout import CHUNKS, StoredArray

MEMORY_BYTES = 2_000_000_000  # of units being checked; one larger than that is checked alone
COPIES = 3  # of a compressed chunk in memory: the file, what it decodes to, and the rows
PIECE_BYTES = 1 << 18  # of rows at once: hashed and counted while they are in the core's cache
UNIT_NAME = re.compile("[0-9]{1,18}")  # of a chunk's file or folder
CRC_BYTES = 4  # of the CRC-32C at the end of a chunk
QUEUED = 4  # units waiting for each thread


@dataclass(frozen=True)
class CheckedUnit:
    """One unit.

    Attributes:
        array: name of its array.
        unit: its index.
        start: its first row.
        bytes: size of its chunk.
        commit: its record, None where that cannot be read.
        findings: what is wrong with it.
    """

    array: str
    unit: int
    start: int
    bytes: int
    commit: Commit | None
    findings: tuple[Finding, ...]


class Budget:
    """Bytes of memory that threads share: who wants more than is left waits."""

    def __init__(self, total: int) -> None:
        self._total = self._left = total
        self._changed = Condition()

    @contextmanager
    def taking(self, wanted: int) -> Iterator[None]:
        """Hold some bytes, at most all of them."""
        taken = min(wanted, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= taken)
            self._left -= taken
        try:
            yield
        finally:
            with self._changed:
                self._left += taken
                self._changed.notify_all()


def check_units(
    store: Store,
    arrays: tuple[StoredArray, ...],
    context: Context,
) -> Iterator[CheckedUnit]:
    """Check every unit that has a record, and yield them roughly in order.

    Raises:
        StoppedError: `stop` asked for it.
    """
    budget = Budget(MEMORY_BYTES)
    work = [(stored, unit) for stored in arrays for unit in stored.records]
    then = {s.array.name: command_for_array(store, s.array.name, _key(s)) for s in arrays}
    threads = reading_threads()
    waiting: deque[Future[CheckedUnit]] = deque()
    context.reporter.begin("units", len(work))
    with ThreadPoolExecutor(threads, thread_name_prefix="fungi-verify") as pool:
        try:
            for stored, unit in work:
                context.stop_if_asked()
                command = then[stored.array.name]
                waiting.append(pool.submit(_check, store.root, stored, unit, budget, command))
                if len(waiting) >= QUEUED * threads:
                    yield waiting.popleft().result()
                    context.reporter.advance(1)
            while waiting:
                context.stop_if_asked()
                yield waiting.popleft().result()
                context.reporter.advance(1)
        finally:
            for future in waiting:
                future.cancel()
            context.reporter.end()


def uncommitted_chunks(store: Store, arrays: tuple[StoredArray, ...]) -> list[Finding]:
    """Return the chunks that no record vouches for, as a kill or a lost record leaves them."""
    found = []
    for stored in arrays:
        remedy = "removed: nothing tells whether it is whole, and the next run writes it anew"
        then = command_for_array(store, stored.array.name, stored.array.fingerprint)
        folder = stored.array.chunk_path(0)
        while folder.name != CHUNKS:
            folder = folder.parent
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        for name in names:
            if not UNIT_NAME.fullmatch(name) or int(name) in stored.records:
                continue
            path = folder / name
            if stored.array.chunk_path(int(name)).exists():  # a repair leaves an empty folder
                found.append(
                    Finding(
                        "orphan",
                        path.relative_to(store.root).as_posix(),
                        "chunks with a record",
                        "a chunk without one",
                        "warning",
                        Remedy(remedy, remove=(path,), then=then),
                    )
                )
    return found


def missing_units(store: Store, arrays: tuple[StoredArray, ...]) -> list[str]:
    """Say how many units of each array are not there yet; imports may leave units out for good."""
    said = []
    for stored in arrays:
        array = stored.array
        missing = array.units - len(stored.records)
        command = command_for_array(store, array.name, array.fingerprint)
        if missing > 0 and not command.startswith("fungi import"):
            said.append(f"{array.name}: {missing} of {array.units} units are not made: {command}")
    return said


def drop_unit(array: UnitArray, unit: int, record: Path, then: str) -> Remedy:
    """Return the remedy that forgets a unit: its record first, then its chunk."""
    return Remedy(
        "the unit is dropped, so that it is computed again",
        remove=(record, array.chunk_path(unit)),
        then=then,
    )


def _key(stored: StoredArray) -> str:
    return stored.array.fingerprint


def _check(root: Path, stored: StoredArray, unit: int, budget: Budget, then: str) -> CheckedUnit:
    array, record = stored.array, stored.records[unit]
    remedy = drop_unit(array, unit, record, then)
    start = unit * array.unit_rows
    chunk = array.chunk_path(unit)

    def wrong(kind: Kind, path: Path, expected: object, found: object) -> Finding:
        where = path.relative_to(root).as_posix()
        return Finding(kind, where, str(expected), _line(found), "error", remedy)

    def done(size: int, commit: Commit | None, *findings: Finding) -> CheckedUnit:
        return CheckedUnit(array.name, unit, start, size, commit, findings)

    try:
        commit = parse_commit(record.read_bytes())
    except (OSError, ValueError) as error:
        return done(0, None, wrong("record-damaged", record, "a record", error))
    most = array.rows_of(unit)
    if commit.unit != unit or not 0 < commit.rows <= most:
        expected = f"unit {unit}, 1 to {most} rows"
        found = f"unit {commit.unit}, {commit.rows} rows"
        return done(0, None, wrong("record-damaged", record, expected, found))
    try:
        size = chunk.stat().st_size
    except OSError:
        expected = f"a chunk of {commit.bytes} bytes"
        return done(0, commit, wrong("chunk-missing", chunk, expected, "no file"))
    try:
        if array.codec == "none":
            found, counts = _read_plain(array, chunk, commit.rows)
        else:
            with budget.taking(COPIES * array.unit_rows * _row_bytes(array)):
                rows = array.read(start, start + commit.rows)
                found, counts = checksum(rows), count_rows(rows)
    except Exception as error:  # each codec has its own way to refuse damaged bytes
        expected = f"{commit.bytes} bytes that can be decoded"
        found = f"{size} bytes: {_line(error)}"
        return done(size, commit, wrong("chunk-damaged", chunk, expected, found))
    if size == 0 or found != commit.checksum:
        expected = f"rows of checksum {commit.checksum}"
        return done(size, commit, wrong("chunk-damaged", chunk, expected, found))
    findings = []
    if commit.fingerprint != array.fingerprint:
        expected = f"the array's setup, {array.fingerprint}"
        findings.append(wrong("fingerprint-differs", record, expected, commit.fingerprint))
    said = (commit.nan_rows, commit.inf_rows, commit.zero_rows)
    if counts != said or not 0 <= commit.failed <= commit.nan_rows:
        expected = "{} NaN, {} infinite, {} zero rows in the chunk".format(*counts)
        found = "{} NaN, {} infinite, {} zero rows".format(*said)
        found += f", {commit.failed} failed inputs"
        findings.append(wrong("counts-differ", record, expected, found))
    # a kill while a partly filled unit is completed leaves a larger chunk than its record says
    if size != commit.bytes and commit.rows == most:
        findings.append(wrong("record-damaged", record, f"{size} bytes", f"{commit.bytes} bytes"))
    return done(size, commit, *findings)


def _read_plain(array: UnitArray, chunk: Path, rows: int) -> tuple[str, tuple[int, int, int]]:
    """Return the checksum and `count_rows` of a plain chunk's first rows, read piece by piece.

    Raises:
        OSError: it cannot be read.
        ValueError: it has another size, or another CRC-32C than it ends with.
    """
    row_bytes = _row_bytes(array)
    step = max(1, PIECE_BYTES // row_bytes)
    buffer = np.empty(min(step, array.unit_rows) * row_bytes, np.uint8)
    state = hashlib.blake2b(digest_size=16)
    crc, counts = 0, np.zeros(3, np.int64)
    with chunk.open("rb", buffering=0) as file:
        for first in range(0, array.unit_rows, step):
            piece = buffer[: min(step, array.unit_rows - first) * row_bytes]
            _fill(file, piece)
            crc = google_crc32c.extend(crc, piece)
            if first < rows:
                committed = piece[: (rows - first) * row_bytes]
                state.update(committed.data)
                counts += count_rows(committed.view(array.array.dtype).reshape(-1, *_row(array)))
        if file.read(CRC_BYTES + 1) != crc.to_bytes(CRC_BYTES, "little"):
            raise ValueError("its CRC-32C differs")
    nan, inf, zero = counts.tolist()
    return state.hexdigest(), (nan, inf, zero)


def _fill(file: IO[bytes], piece: NDArray[np.uint8]) -> None:
    """Read exactly as many bytes as fit: a read may end early, as at a signal."""
    view, done = piece.data, 0
    while done < len(view):
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise ValueError("it ends too early")
        done += count


def _row(array: UnitArray) -> tuple[int, ...]:
    return tuple(array.array.shape[1:])


def _row_bytes(array: UnitArray) -> int:
    return array.array.dtype.itemsize * int(np.prod(_row(array), dtype=np.int64))


def count_rows(rows: NDArray[Any]) -> tuple[int, int, int]:
    """Return how many rows have a NaN, have an infinity, and are all zero.

    Compares bits, which for float16 is many times as fast as `np.isnan`: without its sign, a number
    is zero where its bits are, infinite where they are infinity's, and NaN beyond.
    """
    flat = rows.reshape(len(rows), -1)
    if flat.dtype.kind != "f":
        return 0, 0, int((flat == 0).all(axis=1).sum())
    kind = np.dtype(f"u{flat.itemsize}")
    infinity = np.array(np.inf, flat.dtype).view(kind)
    magnitude = np.array(np.iinfo(kind).max >> 1, kind)
    step = max(1, PIECE_BYTES // max(1, flat.itemsize * flat.shape[1]))
    nan = inf = zero = 0
    for start in range(0, len(flat), step):
        bits = flat[start : start + step].view(kind) & magnitude
        most = bits.max(axis=1)
        nan += int((most > infinity).sum())
        inf += int((bits[most >= infinity] == infinity).any(axis=1).sum())
        zero += int((most == 0).sum())
    return nan, inf, zero


def _line(found: object) -> str:
    lines = str(found).splitlines()
    return lines[0] if lines else type(found).__name__
