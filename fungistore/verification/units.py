"""Units against their records: every committed chunk is read, hashed and counted, in parallel."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from shlex import quote
from threading import Condition

import numpy as np
from numpy.typing import NDArray

from fungistore.machine.context import Context
from fungistore.machine.resources import reading_threads
from fungistore.names import CHUNKS
from fungistore.quantities import counted
from fungistore.store.backend import Backend
from fungistore.store.batches import most_unrecorded
from fungistore.store.chunks import UNIT_NAME, Counts, examine, is_whole
from fungistore.store.commit import Commit, parse_commit
from fungistore.store.disk_errors import raise_unreadable
from fungistore.store.store import Store
from fungistore.store.units import COMMITS, FEATURES, UnitArray
from fungistore.verification.arrays import StoredArray
from fungistore.verification.commands import command_for_array
from fungistore.verification.findings import (
    Finding,
    FindingKind,
    Remedy,
    first_line,
    not_mounted,
    readable,
    unreadable,
)

MEMORY_BYTES = 2_000_000_000  # of units being checked; one larger than that is checked alone
COPIES = 3  # of compressed chunks in memory: their bytes, what they decode to, and the rows
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
    wanted: Callable[[str, int], bool] = lambda array, unit: True,
) -> Iterator[CheckedUnit]:
    """Check every unit that has a record, and yield them in order.

    Args:
        store: it.
        arrays: of the store.
        context: its reporter is told what happens, its stop asked between units.
        wanted: whether a unit of an array is to be checked.

    Raises:
        StoppedError: `context` asked for it.
    """
    budget = Budget(MEMORY_BYTES)
    every = ((stored, unit) for stored in arrays for unit in stored.records)
    work = [(stored, unit) for stored, unit in every if wanted(stored.array.name, unit)]
    then = {s.array.name: command_for_array(store, s.array.name, _key(s)) for s in arrays}
    threads = reading_threads()
    waiting: deque[Future[CheckedUnit]] = deque()
    context.reporter.begin("units", len(work))
    with ThreadPoolExecutor(threads, thread_name_prefix="fungi-verify") as pool:
        try:
            for stored, unit in work:
                context.stop_if_asked()
                command = then[stored.array.name]
                waiting.append(pool.submit(_check, store.backend, stored, unit, budget, command))
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


def uncommitted_units(stored: StoredArray) -> list[int]:
    """Return the units of an array whose chunk is there and has no record."""
    folder = stored.array.folder
    listing = folder.list(CHUNKS)
    names = (name for name in (*listing.files, *listing.folders) if UNIT_NAME.fullmatch(name))
    units = sorted({int(name) for name in names} - stored.records.keys())
    # a repair leaves an empty folder
    return [unit for unit in units if folder.has(stored.array.chunk_key(unit))]


def uncommitted_chunks(store: Store, arrays: tuple[StoredArray, ...]) -> Iterator[Finding]:
    """Find the chunks that no record vouches for, as a kill or a lost record leaves them.

    One that is whole is left where it is: it is in nobody's way, and if it was its record that was
    lost, `rebuild_records` can make another. More of them than kills leave have lost theirs.
    """
    for stored in arrays:
        units = uncommitted_units(stored)
        if units and (not stored.records or len(units) > most_unrecorded(stored.array)):
            yield _without_records(store, stored, len(units))
            continue
        then = command_for_array(store, stored.array.name, stored.array.fingerprint)
        for unit in units:
            where = stored.array.folder.key_of(f"{CHUNKS}/{unit}")
            found = _uncommitted(stored.array, unit, where, then)
            yield from readable(store.backend, where, found)


def _without_records(store: Store, stored: StoredArray, chunks: int) -> Finding:
    """Tell a kill before the first record, which leaves an empty folder, from records that went."""
    name = stored.array.name
    folder = store.folder(COMMITS, name).directory()
    is_there = folder is None or folder.is_dir()
    is_killed = is_there and chunks <= most_unrecorded(stored.array)
    command = f"fungi verify {quote(store.where)} --rebuild-records"
    advice = f"{command} writes them anew for whole chunks"
    if is_killed:
        advice = "the command that made them goes on; if their records were lost, --rebuild-records"
    return Finding(
        "records-missing",
        f"{COMMITS}/{name}",
        f"records of {counted(chunks, 'chunk')} of {FEATURES}/{name}",
        "none yet" if is_killed else "none" if is_there else "none, and no folder of records",
        "warning" if is_killed else "error",
        advice=advice,
    )


def _uncommitted(array: UnitArray, unit: int, where: str, then: str) -> Iterator[Finding]:
    remedy, advice = None, None
    try:
        blank_rows(array, unit)
        found = "a whole chunk without one"
        advice = "the next run writes it anew; if its record was lost, --rebuild-records vouches"
    except ValueError as error:
        if is_whole(array.folder.read(array.chunk_key(unit)), array.shard_units):
            found = f"a whole chunk without one: {first_line(error)}"
            advice = (
                "the array's metadata may be older than it; the next run that gets there decides"
            )
        else:
            found = f"a chunk without one, not whole: {first_line(error)}"
            remedy = Remedy("removed: the next run writes it anew", remove=(where,), then=then)
    yield Finding("orphan", where, "chunks with a record", found, "warning", remedy, advice)


def blank_rows(array: UnitArray, unit: int) -> NDArray[np.bool_]:
    """Return which rows of a unit are NaN throughout, if its chunk's CRC-32C is right.

    They are as many as the array has room for.

    Raises:
        ValueError: the chunk is not whole, or beyond the array's end.
        OSError: it cannot be read.
    """
    if not 0 <= unit < array.units:
        raise ValueError("beyond the end of the array")
    if not array.chunk_size(unit):  # zarr would say that it is NaN
        raise ValueError("no bytes")
    pieces = array.pieces(unit, array.rows_of(unit))
    try:
        blank = [np.isnan(rows.reshape(len(rows), -1)).all(axis=1) for _, rows in pieces]
        return np.concatenate(blank)
    except Exception as error:  # each codec has its own way to refuse damaged bytes
        raise_unreadable(error)
        raise ValueError(first_line(error)) from error


def missing_units(store: Store, arrays: tuple[StoredArray, ...]) -> list[str]:
    """Say how many units of each array are not there yet; imports may leave units out for good."""
    said = []
    for stored in arrays:
        array = stored.array
        missing = array.units - len(stored.records)
        command = command_for_array(store, array.name, array.fingerprint)
        if missing > 0 and not command.startswith("fungi import"):
            said.append(
                f"{array.name}: {missing} of "
                f"{counted(array.units, 'unit is', 'units are')} not made: {command}"
            )
    return said


def drop_unit(array: UnitArray, unit: int, record: str, then: str) -> Remedy:
    """Return the remedy that forgets a unit: its record first, then its chunk."""
    return Remedy(
        "the unit is dropped, so that it is computed again",
        remove=(record, array.folder.key_of(array.chunk_key(unit))),
        then=then,
    )


def _key(stored: StoredArray) -> str:
    return stored.array.fingerprint


def _check(
    backend: Backend, stored: StoredArray, unit: int, budget: Budget, then: str
) -> CheckedUnit:
    try:
        return _compare(backend, stored, unit, budget, then)
    except (OSError, MemoryError) as error:
        array = stored.array
        finding = unreadable(backend, array.folder.key_of(array.chunk_key(unit)), error)
        return CheckedUnit(array.name, unit, unit * array.unit_rows, 0, None, (finding,))


def _compare(
    backend: Backend, stored: StoredArray, unit: int, budget: Budget, then: str
) -> CheckedUnit:
    array, record = stored.array, stored.records[unit]
    remedy = drop_unit(array, unit, record, then)
    start = unit * array.unit_rows
    chunk = array.folder.key_of(array.chunk_key(unit))

    def wrong(kind: FindingKind, key: str, expected: object, found: object) -> Finding:
        return Finding(kind, key, str(expected), first_line(found), "error", remedy)

    def done(size: int, commit: Commit | None, *findings: Finding) -> CheckedUnit:
        return CheckedUnit(array.name, unit, start, size, commit, findings)

    try:
        commit = parse_commit(backend.read(record))
    except (OSError, ValueError) as error:
        raise_unreadable(error)
        return done(0, None, wrong("record-damaged", record, "a record", error))
    most = array.rows_of(unit)
    if commit.unit != unit or not 0 < commit.rows <= most:
        expected = f"unit {unit}, 1 to {counted(most, 'row')}"
        found = f"unit {commit.unit}, {counted(commit.rows, 'row')}"
        return done(0, None, wrong("record-damaged", record, expected, found))
    try:
        size = backend.size(chunk)
    except OSError as error:
        raise_unreadable(error)
        if away := not_mounted(backend, chunk, or_empty=False):
            return done(0, None, away)
        expected = f"a chunk of {commit.bytes} bytes"
        return done(0, commit, wrong("chunk-missing", chunk, expected, "no file"))
    try:
        if array.plain:
            found, counts = array.plain.examine(backend.local_path(chunk), commit.rows)
        else:
            with budget.taking(COPIES * array.stretch_rows * array.feature.row_bytes):
                pieces = (rows for _, rows in array.pieces(unit, commit.rows))
                (found,), counts = examine(pieces, [commit.rows])
    except Exception as error:  # each codec has its own way to refuse damaged bytes
        raise_unreadable(error)
        expected = f"{commit.bytes} bytes that can be decoded"
        found = f"{size} bytes: {first_line(error)}"
        return done(size, commit, wrong("chunk-damaged", chunk, expected, found))
    if size == 0 or found != commit.checksum:
        expected = f"rows of checksum {commit.checksum}"
        return done(size, commit, wrong("chunk-damaged", chunk, expected, found))
    findings = []
    if commit.fingerprint != array.fingerprint:
        expected = f"the array's setup, {array.fingerprint}"
        findings.append(wrong("fingerprint-differs", record, expected, commit.fingerprint))
    said = Counts(commit.nan_rows, commit.inf_rows, commit.zero_rows)
    if counts != said or not 0 <= commit.failed <= commit.nan_rows:
        expected, found = (
            f"{counts} in the chunk",
            f"{said}, {counted(commit.failed, 'failed input')}",
        )
        findings.append(wrong("counts-differ", record, expected, found))
    # a kill while a partly filled unit is completed leaves a larger chunk than its record says
    if size != commit.bytes and commit.rows == most:
        findings.append(wrong("record-damaged", record, f"{size} bytes", f"{commit.bytes} bytes"))
    return done(size, commit, *findings)
