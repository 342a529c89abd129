"""`fungi verify --rebuild-records`: records for whole chunks that have lost theirs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fungistore.errors import StoreError
from fungistore.fingerprint import digest_ids, fingerprint
from fungistore.machine.context import DEFAULT, Context
from fungistore.store.commit import parse_commit
from fungistore.store.disk_errors import raise_unreadable
from fungistore.store.store import Store
from fungistore.store.units import UnitArray
from fungistore.verification.arrays import StoredArray, read_arrays
from fungistore.verification.findings import Verification
from fungistore.verification.samples import LOST, check_samples
from fungistore.verification.units import blank_rows, uncommitted_units
from fungistore.verification.verify import check_store

OLDER = "the rows that it was made from have a record, and may be newer: fungi pca makes it again"


@dataclass(frozen=True)
class Rebuilt:
    """What rebuilding the records of a store did.

    Attributes:
        verification: the store as it is now.
        rebuilt: records that were written, by the array's name.
        left: chunks that got none, and why.
    """

    verification: Verification
    rebuilt: dict[str, int]
    left: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary: the verification's, with what was rebuilt."""
        left = [{"where": where, "why": why} for where, why in self.left]
        return self.verification.to_json() | {"rebuilt": self.rebuilt, "not_rebuilt": left}


def rebuild_records(path: str | Path, *, context: Context = DEFAULT) -> Rebuilt:
    """Write a record for each whole chunk that has none, as in a copy without `commits/`.

    A chunk is whole where its CRC-32C is right, so the rows are those that were written there. Ids
    are taken from the sample table, counts are counted again, failed inputs are those of
    `failures.jsonl`. What no file but the record told cannot be promised: that chunks were not
    swapped, or left from an earlier array of the same shape; the array's setup is taken to be that
    of all its chunks. Rows that end a unit as NaN, and are not listed as failed, count as not made:
    the next run makes them. Records that are there and can be read are left as they are. A PCA's
    unit gets a record only together with its inputs' units: those with a record may be newer.

    Args:
        path: the store's directory.
        context: its reporter is told what happens, its stop asked between units.

    Raises:
        UsageError: there is no store.
        StoreError: the sample table, from which the ids come, is damaged.
        FungiError: another process is writing, or the store cannot be written to.
        StoppedError: `context` asked for it; records that were rebuilt stay.
    """
    rebuilt: dict[str, int] = {}
    left: list[tuple[str, str]] = []
    with Store.open(path).writing() as store:
        samples = check_samples(store, context)
        if not samples.is_sound:
            what = "records cannot be rebuilt without the sample table"
            problem = samples.findings[0]
            raise StoreError(what, where=problem.where, found=problem.found, hint=LOST)
        failed = _failed_rows(store)
        arrays = read_arrays(store, len(store.samples)).arrays
        recorded = {stored.array.name: stored.records.keys() for stored in arrays}
        for stored in arrays:
            name, array = stored.array.name, stored.array
            listed = failed.get(array.feature_set, np.zeros(0, np.int64))
            without = _without_setup(store, array)
            inputs = [] if without else _inputs(store, array)
            for unit in _without_record(store, stored):
                context.stop_if_asked()
                is_older = any(unit in recorded.get(used, ()) for used in inputs)
                why = without or (OLDER if is_older else _rebuild(store, array, unit, listed))
                if why:
                    left.append((array.folder.key_of(array.chunk_key(unit)), why))
                else:
                    rebuilt[name] = rebuilt.get(name, 0) + 1
        return Rebuilt(check_store(store, context, is_being_written=False), rebuilt, tuple(left))


def _failed_rows(store: Store) -> dict[str, NDArray[np.int64]]:
    rows: dict[str, list[int]] = {}
    for failure in store.failures():
        rows.setdefault(failure.feature_set, []).append(failure.row)
    return {name: np.array(numbers, np.int64) for name, numbers in rows.items()}


def _without_setup(store: Store, array: UnitArray) -> str:
    """Say why an array's chunks cannot be vouched for, "" if they can."""
    try:
        found = fingerprint(store.setups.config(array.fingerprint))
    except StoreError as error:
        return f"its setup: {error.what}"
    return "" if found == array.fingerprint else f"its setup has the fingerprint {found}"


def _inputs(store: Store, array: UnitArray) -> list[str]:
    """Return the names of the arrays that a PCA, or a bank, was made from."""
    config = store.setups.config(array.fingerprint)
    made = config.get("pca", config.get("bank"))
    inputs = made.get("inputs") if isinstance(made, dict) else None
    return list(inputs) if isinstance(inputs, dict) else []


def _without_record(store: Store, stored: StoredArray) -> Iterator[int]:
    """Yield the units that have a chunk and no record that can be parsed."""
    array = stored.array
    damaged = []
    for unit, key in stored.records.items():
        try:
            is_sound = parse_commit(store.backend.read(key)).unit == unit
        except (OSError, ValueError) as error:
            raise_unreadable(error)
            is_sound = False
        if not is_sound and array.folder.has(array.chunk_key(unit)):
            damaged.append(unit)
    yield from sorted([*uncommitted_units(stored), *damaged])


def _rebuild(store: Store, array: UnitArray, unit: int, listed: NDArray[np.int64]) -> str:
    """Write a unit's record; returns why not, "" if it was written."""
    try:
        blank = blank_rows(array, unit)
    except ValueError as error:
        return str(error)
    start = unit * array.unit_rows
    is_listed = np.isin(start + np.arange(len(blank)), listed)
    made = np.flatnonzero(~blank | is_listed)
    if not len(made):
        return "all of its rows are NaN, as those are that were never made"
    count = int(made[-1]) + 1
    is_extracted = "backbone" in store.setups.config(array.fingerprint)
    failed = blank & is_listed if is_extracted else blank
    ids = digest_ids(row["id"] for row in store.samples.rows(start, start + count))
    array.vouch(unit, count, ids, int(failed[:count].sum()))
    return ""
