"""The units of one array: chunks that match their records are sent, then the records."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from shlex import quote
from typing import Any

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from fungistore.copying.transfer import Transfer
from fungistore.errors import MismatchError, StoreError
from fungistore.machine.context import Context
from fungistore.store.backend import Bytes
from fungistore.store.chunks import METADATA, chunks_of, is_whole
from fungistore.store.commit import Commit, parse_commit, record_name, record_unit
from fungistore.store.folder import Folder
from fungistore.store.units import UnitArray

BATCH_BYTES = 64_000_000  # of chunks that are in memory, twice: some are sent, some are read
BATCH_UNITS = 64


@dataclass(frozen=True)
class Unit:
    """One committed unit of the source.

    Attributes:
        commit: its record.
        record: the record's bytes.
        is_replaced: whether the target's record is forgotten before.
    """

    commit: Commit
    record: bytes
    is_replaced: bool = False


def committed(array: UnitArray, rows: int) -> dict[int, Unit]:
    """Return the units of an array that are committed now, of the first `rows` rows."""
    stored, found = array.records.read_all(), {}
    for unit, commit in array.commits().items():
        record = stored.get(record_name(unit))
        is_inside = unit * array.unit_rows + commit.rows <= rows
        if record is not None and is_inside and parse_commit(record) == commit:
            found[unit] = Unit(commit, record)
    return found


def lacking(
    array: UnitArray, units: dict[int, Unit], target: Folder, sizes: Folder, *, overwrite: bool
) -> list[Unit]:
    """Return the units that a target lacks, or has in an earlier state.

    Args:
        array: the source's.
        units: of it.
        target: the folder of the target's records.
        sizes: the folder of the target's array.
        overwrite: whether units that are others are replaced.

    Raises:
        MismatchError: the target has other rows of a unit.
    """
    there = {
        u: data for name, data in target.read_all().items() if (u := record_unit(name)) is not None
    }
    names = {unit: array.chunk_key(unit) for unit in there if unit in units}
    bytes_of = sizes.sizes(list(names.values()))
    found = []
    for number, unit in units.items():
        if number not in there:
            found.append(unit)
            continue
        if there[number] == unit.record and bytes_of.get(names[number]) == unit.commit.bytes:
            continue
        if there[number] == unit.record or _is_earlier(there[number], unit.commit):
            found.append(unit)
        elif overwrite:
            found.append(Unit(unit.commit, unit.record, is_replaced=True))
        else:
            raise MismatchError(
                f"the copy has other rows of unit {number}",
                where=target.where(record_name(number)),
                expected="what the store has, or the beginning of it",
                found="rows that were made anew, here or there",
                hint="--overwrite replaces what differs by what STORE has",
            )
    return found


def _is_earlier(record: bytes, commit: Commit) -> bool:
    try:
        before = parse_commit(record)
    except ValueError:
        return False
    return before.fingerprint == commit.fingerprint and (
        commit.checksum_of(before.rows) == before.checksum
    )


def send_units(array: UnitArray, units: list[Unit], transfer: Transfer, context: Context) -> None:
    """Send units, batch by batch: the chunks, which are compared, then the records.

    Raises:
        StoreError: a chunk of the source does not match its record.
        StoppedError: as the context asks.
    """
    records = Folder(transfer.target, array.records.key)
    batches = list(_batches(array, units))
    with ThreadPoolExecutor(1, "fungi-copy") as pool:
        coming = [pool.submit(_read, array, batch, transfer) for batch in batches[:1]]
        for number, batch in enumerate(batches):
            context.stop_if_asked()
            chunks = coming.pop().result()
            if number + 1 < len(batches):
                coming.append(pool.submit(_read, array, batches[number + 1], transfer))
            for unit in batch:
                if unit.is_replaced:
                    records.remove(record_name(unit.commit.unit))
            transfer.target.make_folder(records.key)
            transfer.send(chunks)
            transfer.target.publish_all(
                {records.key_of(record_name(unit.commit.unit)): [unit.record] for unit in batch}
            )
            context.reporter.advance(len(batch))


def _batches(array: UnitArray, units: list[Unit]) -> Iterator[list[Unit]]:
    batch: list[Unit] = []
    total = 0
    for unit in units:
        if batch and (len(batch) >= BATCH_UNITS or total + unit.commit.bytes > BATCH_BYTES):
            yield batch
            batch, total = [], 0
        batch.append(unit)
        total += unit.commit.bytes
    if batch:
        yield batch


def _read(array: UnitArray, batch: list[Unit], transfer: Transfer) -> dict[str, bytes]:
    keys = {array.folder.key_of(array.chunk_key(one.commit.unit)): one for one in batch}
    chunks = transfer.read(list(keys))
    for key, unit in keys.items():
        if not matches(array, unit.commit, chunks[key]):
            raise StoreError(
                "a chunk does not match its record: it is damaged, or being made anew",
                where=f"{array.folder.backend.where}/{key}",
                expected=f"CRC-32C, and checksum {unit.commit.checksum}",
                hint=f"fungi verify {quote(array.folder.backend.where)}, or wait for its writer; "
                "then run the same command again",
            )
    return chunks


def matches(array: UnitArray, commit: Commit, chunk: bytes) -> bool:
    """Whether a chunk's CRC-32C is right, and its first rows are those of a record."""
    if not is_whole(chunk, array.shard_units):
        return False
    if array.plain is not None and len(chunk) != array.plain.bytes:
        return False
    state = hashlib.blake2b(digest_size=16)
    try:
        for piece in _rows(array, chunk, commit.rows):
            state.update(piece)
    except (ValueError, RuntimeError):
        return False
    return state.hexdigest() == commit.checksum


def _rows(array: UnitArray, file: bytes, count: int) -> Iterator[Bytes]:
    """Yield the values of a unit's first rows, chunk by chunk."""
    if array.plain is not None:
        left = count * array.plain.row_bytes
        for chunk in chunks_of(file, array.shard_units):
            yield chunk[:left]
            left = max(0, left - len(chunk))
        return
    buffer = default_buffer_prototype().buffer
    kept = {
        METADATA: buffer.from_bytes(array.folder.read(METADATA)),
        array.chunk_key(0): buffer.from_bytes(file),
    }
    decoded: Any = zarr.open_array(MemoryStore(kept), mode="r")
    for start in range(0, count, array.chunk_rows):
        yield np.ascontiguousarray(decoded[start : min(start + array.chunk_rows, count)]).data
