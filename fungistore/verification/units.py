"""Units against their records: every committed chunk is read, hashed and counted, in parallel."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition

from fungistore.machine.context import Context
from fungistore.machine.resources import reading_threads
from fungistore.store.backend import Backend
from fungistore.store.chunks import CHUNKS, Counts, checksum, count_rows
from fungistore.store.store import Store
from fungistore.store.units import Commit, UnitArray, parse_commit
from fungistore.verification.arrays import StoredArray
from fungistore.verification.commands import command_for_array
from fungistore.verification.findings import Finding, FindingKind, Remedy, first_line

MEMORY_BYTES = 2_000_000_000  # of units being checked; one larger than that is checked alone
COPIES = 3  # of a compressed chunk in memory: the file, what it decodes to, and the rows
UNIT_NAME = re.compile("[0-9]{1,18}")  # of a chunk's file or folder
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
        StoppedError: `context` asked for it.
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


def uncommitted_chunks(store: Store, arrays: tuple[StoredArray, ...]) -> list[Finding]:
    """Return the chunks that no record vouches for, as a kill or a lost record leaves them."""
    found = []
    for stored in arrays:
        remedy = "removed: nothing tells whether it is whole, and the next run writes it anew"
        then = command_for_array(store, stored.array.name, stored.array.fingerprint)
        folder = stored.array.folder
        listing = folder.list(CHUNKS)
        for name in sorted((*listing.files, *listing.folders)):
            if not UNIT_NAME.fullmatch(name) or int(name) in stored.records:
                continue
            key = folder.at(CHUNKS, name).key
            if folder.has(stored.array.chunk_key(int(name))):  # a repair leaves an empty folder
                found.append(
                    Finding(
                        "orphan",
                        key,
                        "chunks with a record",
                        "a chunk without one",
                        "warning",
                        Remedy(remedy, remove=(key,), then=then),
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
        return done(0, None, wrong("record-damaged", record, "a record", error))
    most = array.rows_of(unit)
    if commit.unit != unit or not 0 < commit.rows <= most:
        expected = f"unit {unit}, 1 to {most} rows"
        found = f"unit {commit.unit}, {commit.rows} rows"
        return done(0, None, wrong("record-damaged", record, expected, found))
    try:
        size = backend.size(chunk)
    except OSError:
        expected = f"a chunk of {commit.bytes} bytes"
        return done(0, commit, wrong("chunk-missing", chunk, expected, "no file"))
    try:
        if array.plain:
            found, counts = array.plain.examine(backend.local_path(chunk), commit.rows)
        else:
            with budget.taking(COPIES * array.unit_rows * array.feature.row_bytes):
                rows = array.read(start, start + commit.rows)
                found, counts = checksum(rows), count_rows(rows)
    except Exception as error:  # each codec has its own way to refuse damaged bytes
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
        expected, found = f"{counts} in the chunk", f"{said}, {commit.failed} failed inputs"
        findings.append(wrong("counts-differ", record, expected, found))
    # a kill while a partly filled unit is completed leaves a larger chunk than its record says
    if size != commit.bytes and commit.rows == most:
        findings.append(wrong("record-damaged", record, f"{size} bytes", f"{commit.bytes} bytes"))
    return done(size, commit, *findings)
