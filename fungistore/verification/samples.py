"""The sample table against `store.json`, and the ids of every unit's rows against the table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fungistore.errors import FungiError
from fungistore.fingerprint import digest_ids, hash_ids
from fungistore.machine.context import Context
from fungistore.quantities import counted
from fungistore.store.columns import columns_in, with_columns
from fungistore.store.disk_errors import is_unreadable
from fungistore.store.documents import seal_is_broken
from fungistore.store.samples import PART_NAME, ROWS_PER_GROUP, SCHEMA, Part
from fungistore.store.store import MANIFEST, SAMPLES, Store
from fungistore.verification.findings import Finding, Remedy, first_line, unreadable

LOST = "restore it from a copy of the store, or extract into a new store"


@dataclass(frozen=True)
class CheckedSamples:
    """What is wrong with the sample table.

    Attributes:
        findings: the problems.
        is_sound: whether its rows can be trusted to be those that were written.
        has_checksums: whether every part has one; one whose replacing was killed has none.
    """

    findings: tuple[Finding, ...]
    is_sound: bool
    has_checksums: bool


def check_manifest(store: Store) -> list[Finding]:
    """Compare `store.json` with its own checksum and count."""
    document = json.loads(store.backend.read(MANIFEST))  # parsed once already, by Store.open
    problems = []
    if seal_is_broken(document):
        problems.append("its fields differ from its checksum: it was edited, or is damaged")
    total = sum(part.rows for part in store.manifest.parts)
    if document.get("samples") != total:
        problems.append(
            f"{counted(document.get('samples'), 'sample')}, but parts of {counted(total, 'row')}"
        )
    found = "; ".join(problems)
    expected = "the manifest as it was written"
    advice = (
        f"{LOST}; if you edited it on purpose, the next fungi extract that adds images seals it"
    )
    return [Finding("manifest-damaged", MANIFEST, expected, found, advice=advice)] if found else []


def check_samples(store: Store, context: Context) -> CheckedSamples:
    """Read the whole table: files, row numbers, labels, and ids, which must be unique."""
    table = store.samples
    problems: list[Finding] = []
    first, hashes = 0, [np.zeros(0, np.uint64)]
    for part in table.parts:
        context.stop_if_asked()
        where = f"{SAMPLES}/{part.file}"
        try:
            found = _check_part(store, part, first, hashes, context)
        except FungiError:
            raise
        except Exception as error:  # Arrow raises many types on damaged bytes
            if is_unreadable(error):
                problems.append(unreadable(store.backend, where, error))
                continue
            found = f"it cannot be read: {type(error).__name__}: {first_line(error)}"
        if found:
            expected = f"rows {first} to {first + part.rows} as they were written"
            problems.append(Finding("samples-damaged", where, expected, found, advice=LOST))
        first += part.rows
    if not problems:
        repeated = _repeated_ids(store, np.concatenate(hashes))
        if repeated:
            names = ", ".join(map(repr, sorted(repeated)[:3]))
            finding = Finding(
                "samples-damaged", SAMPLES, "every id once", f"repeated: {names}", advice=LOST
            )
            problems.append(finding)
    has_checksums = all(part.checksum for part in table.parts)
    return CheckedSamples(tuple(problems), not problems, has_checksums)


def unreferenced_parts(store: Store) -> Iterator[Finding]:
    """Find the files of the table that do not count: a kill before `store.json` leaves one."""
    folder, named = store.folder(SAMPLES), {part.file for part in store.manifest.parts}
    for below in folder.below():
        if below.name not in named and PART_NAME.fullmatch(below.name):
            expected, found = (
                f"files that {MANIFEST} names",
                "a file that it does not name",
            )
            remedy = Remedy("removed", remove=(below.key,))
            yield Finding("part-unreferenced", below.key, expected, found, "warning", remedy)


def other_files(store: Store) -> list[str]:
    """Return the keys of what other programs, or users, put among the files of the table."""
    try:
        below = store.folder(SAMPLES).below()
    except OSError:  # which has a finding of its own
        return []
    return [other.key for other in below if not PART_NAME.fullmatch(other.name)]


def digests_of_ranges(
    store: Store, ranges: Iterable[tuple[int, int]], context: Context
) -> dict[tuple[int, int], str]:
    """Return the digest of the ids of each range [start, stop) of rows, in one pass.

    Keeps no more ids in memory than the longest range has, and a row group. Ranges that go beyond
    the table are left out.
    """
    rows = len(store.samples)
    wanted = sorted(((a, b) for a, b in ranges if b <= rows), reverse=True)
    digests: dict[tuple[int, int], str] = {}
    window: list[str] = []
    first = 0
    for batch in store.samples.batches("id"):
        context.stop_if_asked()
        window += batch["id"].to_pylist()
        while wanted and wanted[-1][1] <= first + len(window):
            start, end = wanted.pop()
            digests[start, end] = digest_ids(window[start - first : end - first])
        if not wanted:
            break
        done = min(max(wanted[-1][0] - first, 0), len(window))
        del window[:done]
        first += done
    return digests


def _check_part(
    store: Store,
    part: Part,
    first: int,
    hashes: list[NDArray[np.uint64]],
    context: Context,
) -> str:
    """Return what is wrong with a part, "" if nothing is."""
    folder = store.folder(SAMPLES)
    if part.checksum and folder.digest(part.file) != part.checksum:
        return f"its bytes do not have the checksum {part.checksum} of {MANIFEST}"
    with pq.ParquetFile(folder.local_path(part.file)) as file:
        if file.metadata.num_rows != part.rows:
            return counted(file.metadata.num_rows, "row")
        if not file.schema_arrow.equals(with_columns(SCHEMA, columns_in(file.schema_arrow))):
            return f"columns {', '.join(map(str, file.schema_arrow))}"
        row = first
        for batch in file.iter_batches(ROWS_PER_GROUP, columns=["row", "id", "label"]):
            context.stop_if_asked()
            numbers = batch["row"].fill_null(-1).to_numpy()
            if not np.array_equal(numbers, np.arange(row, row + len(numbers))):
                return f"row numbers out of order after row {row}"
            if _has_odd_label(batch["label"], len(store.manifest.labels)):
                return (
                    f"a label beyond the {counted(len(store.manifest.labels), 'name')} in "
                    f"{MANIFEST}"
                )
            hashes.append(hash_ids(batch["id"].to_pylist()))
            row += len(numbers)
    return ""


def _has_odd_label(column: pa.Array, names: int) -> bool:
    labels = column.drop_null().to_numpy()
    return bool(((labels < 0) | (labels >= names)).any())


def _repeated_ids(store: Store, hashes: NDArray[np.uint64]) -> set[str]:
    values, counts = np.unique(hashes, return_counts=True)
    suspects = values[counts > 1]
    if not len(suspects):
        return set()
    seen: set[str] = set()  # of ids whose hashes meet, so few unless ids repeat
    repeated = set()
    for name in store.samples.ids():
        if np.isin(hash_ids([name]), suspects)[0]:
            repeated |= {name} & seen
            seen.add(name)
    return repeated
