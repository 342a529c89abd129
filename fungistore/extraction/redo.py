"""Rows made once more in units that are done: of changed files, and of inputs that failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from fungistore.errors import UsageError
from fungistore.extraction.compute import ComputedBatch, compute_units, tell_unusable
from fungistore.extraction.features import FeatureMaker
from fungistore.extraction.plan import BatchPlan
from fungistore.extraction.resolve import Resolved
from fungistore.machine.context import Context
from fungistore.store.failures import Failure, count_unread
from fungistore.store.feature import is_derived, name_of
from fungistore.store.item_digests import ItemDigests
from fungistore.store.store import Store
from fungistore.store.units import UnitArray


@dataclass(frozen=True)
class Redone:
    """What became of rows that were made once more: how many work now, how many do not."""

    mended: int
    failing: int


def redo_rows(
    listed: Sequence[Failure],
    store: Store,
    maker: FeatureMaker,
    resolved: Resolved,
    arrays: Mapping[str, UnitArray],
    derived: Sequence[UnitArray],
    context: Context,
) -> Redone:
    """Make listed rows anew, put them into their units, and take them off the list.

    The rows of a unit are batches of their own, so they may differ from a fresh extraction's in
    the last digits, as with another batch size. A unit's record goes before its chunk is
    replaced: after a kill in between, the unit counts as missing, and extraction makes it.

    Args:
        listed: failures of one feature set by row, whose units are done in all arrays.
        store: the store, held for writing.
        maker: makes the features.
        resolved: the settings.
        arrays: the feature set's arrays by name in it.
        derived: arrays made from them, whose units are removed where a row changes.
        context: its reporter is told what happens, its stop asked between batches.

    Raises:
        StoppedError: `context` asked for it; the units that are done are taken off the list.
    """
    unit_rows = next(iter(arrays.values())).unit_rows
    features = frozenset(resolved.options.features)
    mended: list[Failure] = []
    by_row = {failure.row: failure for failure in listed}

    def plans() -> Iterator[BatchPlan]:
        for unit, group in groupby(listed, key=lambda failure: failure.row // unit_rows):
            rows = store.samples.take([failure.row for failure in group])
            for start in range(0, len(rows), resolved.batch_size):
                batch = rows[start : start + resolved.batch_size]
                yield BatchPlan(unit, batch, features, last=start + len(batch) == len(rows))

    def commit(parts: list[ComputedBatch]) -> None:
        _merge(store, arrays, derived, parts, context)
        failing = {failure.row for part in parts for failure in part.failures}
        rows = {row["row"] for part in parts for row in part.plan.rows}
        mended.extend(by_row[row] for row in rows - failing)

    context.reporter.begin("rows to make anew", len(listed))
    try:
        compute_units(plans(), maker, resolved, commit, context)
    finally:
        context.reporter.end()
        if mended:
            store.compact_failures(mended=mended)
    return Redone(len(mended), len(listed) - len(mended))


def refuse_partial_redo(store: Store, resolved: Resolved) -> None:
    """A row is listed once for all features of a set, so all of them are made anew together.

    Raises:
        UsageError: the settings leave some out.
    """
    made = {name for name in store.arrays(resolved.options.name) if not is_derived(name)}
    left_out = made - {spec.path for spec in resolved.arrays}
    if left_out:
        features = [*resolved.options.features, *sorted(map(name_of, left_out))]
        raise UsageError(
            "rows are made anew for all features of a feature set together",
            where=f"feature set {resolved.options.name!r}",
            expected=", ".join(dict.fromkeys(features)),
            found=", ".join(resolved.options.features),
            hint=f"--features {','.join(dict.fromkeys(features))}",
        )


def _merge(
    store: Store,
    arrays: Mapping[str, UnitArray],
    derived: Sequence[UnitArray],
    parts: list[ComputedBatch],
    context: Context,
) -> None:
    """Replace some rows of a committed unit in every array."""
    unit = parts[0].plan.unit
    failures = [failure for part in parts for failure in part.failures]
    store.add_failures(failures)
    commits = [commit for array in arrays.values() if (commit := array.commit(unit))]
    if commits:
        own = next(iter(arrays.values()))
        rows = [row["row"] - unit * own.unit_rows for part in parts for row in part.plan.rows]
        digests = np.concatenate([part.digests for part in parts])
        most = max(commit.rows for commit in commits)
        ItemDigests(store.backend, own.feature_set).replace(unit, rows, digests, most)
    for array in derived:
        array.forget(unit)
        # before the rows change: no rebuilt record may vouch for what was made from the old ones
        array.folder.remove(array.chunk_key(unit))
    for name in parts[0].rows:
        array = arrays[name]
        before = array.commit(unit)
        if before is None:
            continue  # removed by another hand since: extraction makes it
        start = unit * array.unit_rows
        places = [row["row"] - start for part in parts for row in part.plan.rows]
        block = array.read(start, start + before.rows)
        new = np.concatenate([part.rows[name] for part in parts]).astype(block.dtype)
        if np.array_equal(block[places], new, equal_nan=True):
            continue  # still unreadable
        failed = before.failed - min(before.failed, _count_blank(block[places]))
        failed += count_unread(failures)
        block[places] = new
        array.forget(unit)
        written = array.publish(unit, block, before.ids, failed, before)
        tell_unusable(written, name, context)


def _count_blank(rows: NDArray[np.floating]) -> int:
    """Return how many rows are NaN throughout, as those of unreadable inputs are."""
    return int(np.isnan(rows.reshape(len(rows), -1)).all(axis=1).sum())
