"""`fungi import`: features that already exist become a feature set, unit by unit, resumable."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fungistore.choices import Codec
from fungistore.errors import FungiError, UsageError
from fungistore.exchange.gather import gathering
from fungistore.exchange.import_result import ImportResult
from fungistore.exchange.match import refuse_unknown
from fungistore.exchange.narrowing import refuse_unfit
from fungistore.exchange.options import ImportOptions
from fungistore.exchange.plan import Plan, make_plan
from fungistore.exchange.samples import ImportedSamples
from fungistore.fingerprint import Config, digest_ids, fingerprint
from fungistore.machine.context import DEFAULT, Context
from fungistore.machine.powers import power_of_two_within
from fungistore.quantities import counted
from fungistore.store.backend import StorePlace, open_backend
from fungistore.store.batches import UnitBatch
from fungistore.store.chunks import layout_config
from fungistore.store.disk_errors import disk_errors_explained
from fungistore.store.feature import PATCHES
from fungistore.store.listing import add_source
from fungistore.store.manifest import SCHEMA_VERSION
from fungistore.store.mismatch import refuse_many_chunks, refuse_mismatch
from fungistore.store.store import Store
from fungistore.store.understood import understood
from fungistore.store.units import LARGEST_UNIT, UnitArray

UNIT_BYTES = 1 << 24  # 16 MiB a unit: 100 million rows of 384 are 9,000 files, a kill costs little
LARGEST_UNIT_BYTES = 1 << 28  # in memory a few times over, once in the type of the file


def import_features(
    files: str | Path | Sequence[str | Path],
    store: str | Path,
    options: ImportOptions = ImportOptions(),
    *,
    restart: bool = False,
    context: Context = DEFAULT,
) -> ImportResult:
    """Write vectors or patch tokens from files into a store, continuing where it stopped.

    A new store gets the files' rows as its samples. In one that has samples, rows are matched by
    id, in any order; samples without a row stay without features.

    Args:
        files: .npy, Parquet, HDF5 or zarr; the rows of several follow each other.
        store: the store's directory; made where nothing is.
        options: what to import, and as what.
        restart: first delete the array of that name.
        context: its reporter is told what happens, its stop asked between units; True ends the run
            with StoppedError, keeping whole units.

    Raises:
        UsageError: a file, its ids or the options cannot be used; nothing was written.
        MismatchError: the array was made from other files or with other settings.
        StoreError: the store is damaged.
        StoppedError: `context` asked for it.
        FungiError: a full disk.
    """
    place = open_backend(store)
    paths = [Path(file) for file in ([files] if isinstance(files, str | Path) else files)]
    consequence = "every committed unit is kept"
    with disk_errors_explained(place.where, consequence), ExitStack() as opened:
        plan = make_plan(paths, options, opened, context)
        if restart or not _is_begun(plan, place):
            _refuse_unfit(plan, context)
        thing = f"features/{plan.feature_set}/{plan.array.path}"
        made = Store.open_or_create(place)
        with made.writing("samples", patience=context) as listed, listed.writing(thing) as target:
            if not len(target.samples):
                _add_samples(target, plan.samples)
                told = understood(target, plan.samples)
                for said in (str(told), *told.warnings()):
                    context.reporter.notice(said)
            return _import(target, plan, options, context, restart=restart)


def _is_begun(plan: Plan, place: StorePlace) -> bool:
    return Store.exists(place) and plan.array.path in Store.open(place).arrays(plan.feature_set)


def _refuse_unfit(plan: Plan, context: Context) -> None:
    """Refuse values that the storage type has no room for, before the first unit is written."""
    dtype = plan.array.dtype
    if np.dtype(dtype).itemsize < plan.files.dtype.itemsize:
        hints = ["--storage-dtype float32"] if dtype == "float16" else []
        if plan.layout is None:
            hints.append("scale the vectors: their length does not matter to the other commands")
        hint = ", or ".join(hints) or "scale the tokens, all of them by one number"
        refuse_unfit(plan.flat_blocks(context), dtype, flag="--storage-dtype", hint=hint)


def _add_samples(store: Store, samples: ImportedSamples) -> None:
    """Add the files' samples; where that fails, no new store is left behind."""
    try:
        add_source(store, samples)
    except FungiError:
        store.remove()
        raise


def _import(
    store: Store,
    plan: Plan,
    options: ImportOptions,
    context: Context,
    *,
    restart: bool,
) -> ImportResult:
    wanted = plan.ids.rows_of(store.samples)
    matched = int((wanted >= 0).sum())
    unknown = plan.files.rows - matched
    if unknown:
        known = np.zeros(plan.files.rows, bool)
        known[wanted[wanted >= 0]] = True
        if options.unknown == "refuse" or not matched:
            refuse_unknown(plan.samples.ids(), known, matched, store.where)
        context.reporter.notice(
            f"{counted(unknown, 'row has', 'rows have')} ids that the store does not know: skipped"
        )
    if restart and plan.array.path in store.arrays(plan.feature_set):
        _remove(store, plan, context)
    array = _ready_array(store, plan, options, context)
    last = _last_rows(wanted, array.unit_rows)
    computed = _write(store, plan, array, wanted, last, context)
    commits = array.commits().values()
    nan_rows = sum(commit.nan_rows - commit.failed for commit in commits)
    inf_rows = sum(commit.inf_rows for commit in commits)
    if matched < len(wanted):
        missing = len(wanted) - matched
        context.reporter.notice(
            f"{missing} of {counted(len(wanted), 'sample has', 'samples have')} no "
            f"row, and stay without"
        )
    zero_rows = sum(commit.zero_rows for commit in commits)
    fate = "kept, and left out by later commands"
    nowhere = "kept, though they have no direction to be compared by"
    for count, one, several, what in (
        (nan_rows, "row has", "rows have", f"NaN: {fate}"),
        (inf_rows, "row has", "rows have", f"infinities: {fate}"),
        (zero_rows, "row is", "rows are", f"zero throughout: {nowhere}"),
    ):
        if count:
            context.reporter.notice(f"{counted(count, one, several)} {what}")
    return ImportResult(
        store=store.where,
        feature_set=plan.feature_set,
        feature=plan.feature,
        rows=plan.files.rows,
        dim=plan.array.row_shape[-1],
        shape=plan.array.row_shape,
        storage_dtype=plan.array.dtype,
        samples=len(wanted),
        matched=matched,
        unknown=unknown,
        nan_rows=nan_rows,
        inf_rows=inf_rows,
        zero_rows=zero_rows,
        unusable=zero_rows + sum(max(c.nan_rows - c.failed, c.inf_rows) for c in commits),
        units_done=len(commits),
        units_computed=computed,
        fingerprint=array.fingerprint,
    )


def _remove(store: Store, plan: Plan, context: Context) -> None:
    array = store.arrays(plan.feature_set)[plan.array.path]
    rows = sum(commit.rows for commit in array.commits().values())
    context.reporter.notice(f"--restart: deleting {array.name} ({counted(rows, 'row')})")
    store.remove_arrays([array])
    store.remove_unused_setups()


def _ready_array(store: Store, plan: Plan, options: ImportOptions, context: Context) -> UnitArray:
    """Return the array to write, made or lengthened as needed.

    Raises:
        MismatchError: it was made from something else, or the feature set has other units.
    """
    removed = store.sweep()
    if removed:
        context.reporter.notice(
            f"removed {counted(removed, 'unfinished file')} of an interrupted run"
        )
    existing = store.arrays(plan.feature_set)
    codec: Codec = "none"
    shard_units, unit_rows = options.shard_units or 1, None
    if existing:  # features of one set have the same units
        neighbour = next(iter(existing.values()))
        shard_units, unit_rows = options.shard_units or neighbour.shard_units, neighbour.unit_rows
        codec = store.setups.config(neighbour.fingerprint).get("layout", {}).get("codec", codec)
    if options.unit_rows is not None or unit_rows is None:
        unit_rows = (options.unit_rows or _unit_rows(plan)) * shard_units
    refuse_many_chunks(unit_rows, shard_units, plan.feature_set)
    _refuse_huge_chunks(plan, unit_rows // shard_units)
    config: Config = {
        "schema": SCHEMA_VERSION[0],
        "layout": layout_config(unit_rows, shard_units, codec),
        "vectors" if plan.layout is None else PATCHES: {"dtype": plan.array.dtype},
        "import": {plan.feature: plan.source},
    }
    refuse_mismatch(store, plan.feature_set, {plan.array.path: config})
    array = existing.get(plan.array.path)
    if array is None:
        store.setups.freeze(config, {}, {"made": plan.origin} if plan.origin else {})
        array = store.create_array(
            plan.feature_set,
            plan.array,
            rows=len(store.samples),
            unit_rows=unit_rows,
            shard_units=shard_units,
            codec=codec,
            fingerprint=fingerprint(config),
        )
    array.grow(len(store.samples))
    return array


def _refuse_huge_chunks(plan: Plan, chunk_rows: int) -> None:
    """Units of a set of vectors alone can be too long for tokens that come later."""
    size = chunk_rows * plan.array.row_bytes
    if chunk_rows > 1 and size > LARGEST_UNIT_BYTES:
        raise UsageError(
            f"a chunk of {plan.feature} would have {size / 1e9:.1f} GB",
            where=f"feature set {plan.feature_set!r}, chunks of {counted(chunk_rows, 'row')}",
            expected=f"at most {LARGEST_UNIT_BYTES / 1e9:.1f} GB",
            hint=f"import {plan.feature} first, and the other features into its set; or into a "
            "set of its own with --feature-set OTHER; or give a smaller --unit-rows",
        )


def _unit_rows(plan: Plan) -> int:
    """Return the largest power of two whose rows are at most `UNIT_BYTES`, and not all padding."""
    rows = UNIT_BYTES // plan.array.row_bytes
    enough = 1 << (plan.files.rows - 1).bit_length()
    return min(LARGEST_UNIT, enough, power_of_two_within(rows))


def _last_rows(wanted: NDArray[np.int64], unit_rows: int) -> list[int]:
    """Return how many rows of each unit there are up to its last one with a vector."""
    counts = []
    for start in range(0, len(wanted), unit_rows):
        present = np.flatnonzero(wanted[start : start + unit_rows] >= 0)
        counts.append(int(present[-1]) + 1 if len(present) else 0)
    return counts


def _write(
    store: Store,
    plan: Plan,
    array: UnitArray,
    wanted: NDArray[np.int64],
    last: list[int],
    context: Context,
) -> int:
    """Write and commit the units that lack rows; returns how many."""
    done = {unit: commit.rows for unit, commit in array.commits().items()}
    units = [unit for unit, rows in enumerate(last) if rows]
    to_do = [unit for unit in units if done.get(unit, 0) < last[unit]]
    if not to_do:
        context.reporter.notice(
            f"nothing to do: all {counted(len(units), 'unit is', 'units are')} done"
        )
        return 0
    if done:
        context.reporter.notice(
            f"resuming: {len(units) - len(to_do)}/{len(units)} units done, {len(to_do)} to go"
        )
    context.reporter.begin("units", len(units), done=len(units) - len(to_do))
    scratch = store.backend.scratch()
    with (
        gathering(plan.files, wanted, array.unit_rows, scratch, context) as gather,
        UnitBatch(array, lambda _: context.reporter.advance(1)) as batch,
    ):
        for unit in to_do:
            context.stop_if_asked()
            start = unit * array.unit_rows
            rows = wanted[start : start + last[unit]]
            with np.errstate(over="ignore"):
                block = plan.arranged(gather(rows)).astype(plan.array.dtype)
            names = store.samples.rows(start, start + len(rows))
            ids = digest_ids(sample["id"] for sample in names)
            batch.add(unit, block, ids, failed=int((rows < 0).sum()))
    context.reporter.end()
    return len(to_do)
