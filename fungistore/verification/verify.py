"""`fungi verify`: a whole store against its own records; the stage from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

from fungistore.backbones.adapters.adaptation import ADAPTATIONS
from fungistore.engines.engine import Engine
from fungistore.engines.pieces import ALONE
from fungistore.errors import SchemaError, StoreError
from fungistore.evaluation.result import EVALS
from fungistore.indexing.record import INDEXES
from fungistore.loff.head_folder import HEADS
from fungistore.machine.context import DEFAULT, Context
from fungistore.prompting.answers import ANSWERS
from fungistore.segmentation.bank_record import BANKS
from fungistore.store.failures import FAILURES
from fungistore.store.item_digests import CONTENTS
from fungistore.store.masks import ANNOTATIONS
from fungistore.store.setups import SETUPS
from fungistore.store.store import MANIFEST, SAMPLES, Store
from fungistore.store.units import COMMITS, FEATURES
from fungistore.verification.adaptations import check_adaptations
from fungistore.verification.arrays import StoredArray, read_arrays
from fungistore.verification.artefacts import check_derived, check_evals, check_heads, check_indexes
from fungistore.verification.banks import check_banks
from fungistore.verification.commands import command_for_array
from fungistore.verification.copies import check_copies
from fungistore.verification.digests import check_digests
from fungistore.verification.divided import check_units_by
from fungistore.verification.findings import (
    ArrayCounts,
    Finding,
    FindingKind,
    Verification,
    errors_first,
    readable,
    unreadable,
)
from fungistore.verification.kept_answers import check_answers
from fungistore.verification.masks import check_masks
from fungistore.verification.samples import (
    LOST,
    CheckedSamples,
    check_manifest,
    check_samples,
    digests_of_ranges,
    other_files,
    unreferenced_parts,
)
from fungistore.verification.setups import check_setups
from fungistore.verification.strays import check_failures, check_orphans, foreign_files
from fungistore.verification.units import (
    CheckedUnit,
    drop_unit,
    missing_units,
    uncommitted_chunks,
)

COUNTED = tuple(field.name for field in fields(ArrayCounts))[1:]  # all but the array's name


def verify_store(
    path: str | Path,
    *,
    engine: Engine = ALONE,
    context: Context = DEFAULT,
) -> Verification:
    """Read and hash everything that a store holds, and list what is wrong. Nothing is changed.

    Every committed unit against its record (checksum, size, counts of NaN, infinite and zero
    rows, ids, setup), zarr's metadata, the sample table, the setups, and each later artefact
    against what it was made from. While another process writes, its unfinished files are no
    findings.

    Args:
        path: the store's directory.
        engine: who reads which units; the findings are the same.
        context: its reporter is told what happens, its stop asked between units.

    Raises:
        UsageError: there is no store.
        StoppedError: `context` asked for it.
    """
    try:
        store = Store.open(path)
    except StoreError as error:
        return Verification(str(path), (_unopenable(error),))
    writers = store.writers()
    for claim in writers:
        context.reporter.notice(f"reading while the store is being written: {claim}")
    return check_store(store, context, is_being_written=bool(writers), engine=engine)


def check_store(
    store: Store, context: Context, *, is_being_written: bool, engine: Engine = ALONE
) -> Verification:
    """Do what `verify_store` does to an open store.

    Args:
        store: the store.
        context: its reporter is told what happens, its stop asked between units.
        is_being_written: whether another process is at work: leftovers may be its own.
        engine: who reads which units.

    Raises:
        StoppedError: `context` asked for it.
    """
    began = time.perf_counter()
    backend, notes = store.backend, list[str]()
    samples = check_samples(store, context)
    rows = len(store.samples) if samples.is_sound else None
    try:
        found = read_arrays(store, rows)
    except (OSError, MemoryError) as error:
        notes.append("the arrays, and what was made from them, were not checked")
        seen = [*check_manifest(store), *samples.findings, unreadable(backend, COMMITS, error)]
        return Verification(store.where, errors_first(seen), notes=tuple(notes))
    findings = [*check_manifest(store), *samples.findings, *found.findings]
    findings += readable(backend, SETUPS, check_setups(store, found, context))
    findings += readable(backend, FEATURES, check_copies(store, found))
    tally = _Tally(store, found.arrays)
    for unit in check_units_by(engine, store, found.arrays, rows, context):
        tally.add(unit)
    findings += tally.findings
    bad = frozenset(tally.bad)
    if samples.is_sound:
        wrong = _wrong_ids(store, found.arrays, tally, samples, context)
        findings += readable(backend, SAMPLES, wrong)
    else:
        notes.append("the sample table is not sound: the ids of the units were not compared")
    findings += readable(backend, CONTENTS, check_digests(store, found.arrays, context))
    findings += readable(backend, ANNOTATIONS, check_masks(store, context))
    findings += readable(backend, FAILURES, check_failures(store, tally.failed))
    findings += readable(backend, FEATURES, check_derived(store, found, bad))
    findings += readable(backend, BANKS, check_banks(store, found))
    findings += readable(backend, INDEXES, check_indexes(store, found, bad, context))
    findings += readable(backend, HEADS, check_heads(store, found, bad, context))
    findings += readable(backend, ADAPTATIONS, check_adaptations(store, context))
    findings += readable(backend, EVALS, check_evals(store, found, bad))
    findings += readable(backend, ANSWERS, check_answers(store))
    uncommitted = [*readable(backend, FEATURES, uncommitted_chunks(store, found.arrays))]
    notes += missing_units(store, found.arrays)
    notes += foreign_files(store, context, [*found.others, *other_files(store)])
    if is_being_written:
        notes.append("another process was writing: leftovers, which may be its own, are not listed")
        passing = ("orphan", "records-missing")
        findings = [finding for finding in findings if finding.kind not in passing]
    elif not any(finding.kind == "manifest-damaged" for finding in findings):
        findings += [*check_orphans(store, context), *uncommitted]
        findings += readable(backend, SAMPLES, unreferenced_parts(store))
    return Verification(
        store=store.where,
        findings=errors_first(findings),
        units=tally.units,
        bytes=tally.bytes,
        arrays=tally.counts(),
        uncommitted=tuple(finding.where for finding in uncommitted if finding.kind == "orphan"),
        notes=tuple(notes),
        is_being_written=is_being_written,
        seconds=time.perf_counter() - began,
    )


class _Tally:
    """What the units came to; keeps a few numbers of each sound one."""

    def __init__(self, store: Store, arrays: tuple[StoredArray, ...]) -> None:
        self._arrays = {stored.array.name: stored for stored in arrays}
        self._extracted = {
            stored.array.name for stored in arrays if _is_extracted(store, stored.array.fingerprint)
        }
        self._counts: dict[str, tuple[int, ...]] = {
            name: (0,) * len(COUNTED) for name in self._arrays
        }
        self.units = self.bytes = 0
        self.findings: list[Finding] = []
        self.bad: set[str] = set()
        self.failed: list[CheckedUnit] = []
        self.ids: list[tuple[str, int, int, int, str]] = []  # array, unit, start, stop, digest

    def add(self, checked: CheckedUnit) -> None:
        self.units += 1
        self.bytes += checked.bytes
        self.findings += checked.findings
        commit = checked.commit
        if checked.findings:
            self.bad.add(checked.array)
        elif commit is not None:
            numbers = asdict(commit) | {"units": 1, "bytes": checked.bytes}
            before = self._counts[checked.array]
            self._counts[checked.array] = tuple(
                count + numbers[name] for name, count in zip(COUNTED, before, strict=True)
            )
            stop = checked.start + commit.rows
            self.ids.append((checked.array, checked.unit, checked.start, stop, commit.ids))
            if commit.failed and checked.array in self._extracted:
                self.failed.append(checked)

    def counts(self) -> tuple[ArrayCounts, ...]:
        return tuple(ArrayCounts(name, *numbers) for name, numbers in self._counts.items())


def _wrong_ids(
    store: Store,
    arrays: tuple[StoredArray, ...],
    tally: _Tally,
    samples: CheckedSamples,
    context: Context,
) -> Iterator[Finding]:
    """Compare the ids that units were made of with those of the sample table."""
    by_name = {stored.array.name: stored for stored in arrays}
    ranges = {(start, end) for _, _, start, end, _ in tally.ids}
    digests = digests_of_ranges(store, ranges, context)
    for name, unit, start, end, ids in tally.ids:
        right = digests.get((start, end))
        if ids == right:
            continue
        stored = by_name[name]
        record = stored.records[unit]
        then = command_for_array(store, name, stored.array.fingerprint)
        remedy = drop_unit(stored.array, unit, record, then)
        yield Finding(
            "ids-differ",
            record,
            f"ids of rows {start} to {end}, of digest {right}"
            if right
            else f"rows of the sample table, which has {len(store.samples)}",
            ids,
            remedy=remedy if samples.has_checksums and right else None,
            advice="the sample table has no checksum since its replacing was killed, so it may be "
            "the table that is damaged; --restart makes the features anew",
        )


def _is_extracted(store: Store, key: str) -> bool:
    try:
        return "backbone" in store.setups.config(key)
    except (StoreError, OSError):
        return False


def _unopenable(error: StoreError) -> Finding:
    found = f"{error.what}: {error.found}" if error.found else error.what
    expected = str(error.expected or "a manifest that can be read")
    kind: FindingKind = "other-schema" if isinstance(error, SchemaError) else "manifest-damaged"
    return Finding(kind, MANIFEST, expected, found, advice=error.hint or LOST)
