"""`fungi extract`: images in, committed units of features out; the stage from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from fungistore.errors import FungiError, UsageError
from fungistore.extraction.compute import compute_tasks
from fungistore.extraction.features import FeatureMaker
from fungistore.extraction.freeze import array_configs, as_frozen, by_array, freeze, settle
from fungistore.extraction.measure import (
    free_bytes,
    refuse_empty,
    with_fitting_batch,
    with_unit_rows,
)
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.plan import Task, count_bytes, count_images, plan_tasks
from fungistore.extraction.redo import Redone, redo_rows
from fungistore.extraction.resolve import Resolved
from fungistore.extraction.result import ExtractResult
from fungistore.fingerprint import Config, fingerprint
from fungistore.machine.context import QUIET, Context
from fungistore.matrices.blocks import PCA
from fungistore.sources.opening import open_source
from fungistore.sources.sample import Source
from fungistore.store.disk_errors import disk_errors_explained
from fungistore.store.failures import CHANGED_FILE, Failure
from fungistore.store.locks import WHOLE, Slice
from fungistore.store.store import Store
from fungistore.store.units import UnitArray


def extract(
    source: str | Source,
    store: str | Path,
    options: ExtractOptions,
    *,
    restart: bool = False,
    update: bool = False,
    retry_failed: bool = False,
    part: Slice = WHOLE,
    context: Context = QUIET,
) -> ExtractResult:
    """Write the features of a source's images into a store, continuing where it stopped.

    Several processes may do so at once, each with its own slice of the units: whoever comes first
    freezes what all of them use, the others wait for that moment.

    Args:
        source: a folder, manifest or tar shards, as `open_source` takes them, or a Source.
        store: the store's directory; made where nothing is.
        options: what to extract, and how.
        restart: first delete everything that the feature set has.
        update: make the rows of files that have changed anew, and try failed inputs again.
        retry_failed: try failed inputs again.
        part: this process's slice of the units.
        context: its reporter is told what happens, its stop asked between batches; True ends the
            run with StoppedError, keeping whole units.

    Raises:
        UsageError: options, source or model cannot be used; nothing was written.
        MismatchError: the feature set was made with other settings; nothing was overwritten.
        StoreError: the store is damaged.
        StoppedError: `stop` asked for it.
        FungiError: a full disk, an unreadable image under `on_error="fail"`, or another process
            that writes the same.
    """
    path = Path(store)
    _refuse_restart_of_one(part, restart=restart)
    with disk_errors_explained(path), ExitStack() as held:
        opened = open_source(source) if isinstance(source, str) else source
        resolved = settle(path, options, restart=restart)
        made = Store.open_or_create(path)
        with made.writing("samples", patience=context) as target:
            _add_samples(target, opened, context, update=update)
        with made.writing(f"prepare/{options.name}", patience=context) as preparing:
            if restart:
                with preparing.writing(f"features/{options.name}") as whole:
                    _remove_feature_set(whole, options.name, context)
            things = _things(preparing, resolved)
            target = held.enter_context(preparing.writing(*things, part=part))
            job = _prepare(target, resolved, part, context, is_redo=update or retry_failed)
        return _work(job, context)


@dataclass(frozen=True)
class _Job:
    """Everything that is settled before the first unit."""

    store: Store
    resolved: Resolved
    configs: Mapping[str, Config]
    maker: FeatureMaker
    arrays: Mapping[str, UnitArray]
    derived: Sequence[UnitArray]
    rows: int
    part: Slice
    redo: Sequence[Failure]

    @property
    def unit_rows(self) -> int:
        return next(iter(self.arrays.values())).unit_rows

    @property
    def units(self) -> int:
        return -(-self.rows // self.unit_rows)

    def own_units(self) -> list[int]:
        return [unit for unit in range(self.units) if unit in self.part]

    def own_rows(self) -> int:
        size = self.unit_rows
        return sum(min(size, self.rows - unit * size) for unit in self.own_units())

    def missing(self) -> list[Task]:
        arrays = dict(self.arrays)
        return plan_tasks(self.resolved.arrays, arrays, self.rows, self.unit_rows)


def _refuse_restart_of_one(part: Slice, *, restart: bool) -> None:
    if restart and part != WHOLE:
        raise UsageError(
            "one worker of several cannot start the feature set anew",
            where="--restart",
            found=str(part),
            hint="first let one process do it: the same command with --restart --limit 1 and "
            "without workers; then start the workers without --restart",
        )


def _things(store: Store, resolved: Resolved) -> list[str]:
    """Return what is locked: the arrays, and those derived from them, whose units may go."""
    name = resolved.options.name
    derived = [array.name for array in _derived(store, name)]
    return sorted(
        f"features/{array}" for array in [f"{name}/{s.name}" for s in resolved.arrays] + derived
    )


def _derived(store: Store, feature_set: str) -> list[UnitArray]:
    arrays = store.arrays(feature_set)
    return [array for name, array in arrays.items() if name.startswith(PCA)]


def _prepare(
    target: Store,
    resolved: Resolved,
    part: Slice,
    context: Context,
    *,
    is_redo: bool,
) -> _Job:
    options = resolved.options
    if is_redo:
        _refuse_partial_redo(target, resolved)
    resolved = as_frozen(resolved, target)
    resolved = with_fitting_batch(resolved, target.samples, context)
    resolved = with_unit_rows(resolved, target.samples, context)
    configs = array_configs(resolved)
    target.refuse_mismatch(options.name, by_array(resolved, configs))
    maker = freeze(resolved, target, configs, context)
    rows = options.rows_of(len(target.samples))
    arrays = _ready_arrays(target, resolved, configs, rows, context)
    unit_rows = next(iter(arrays.values())).unit_rows
    listed = [f for f in target.failures() if f.feature_set == options.name and f.row < rows]
    changed = sum(failure.error == CHANGED_FILE for failure in listed)
    if changed and not is_redo:
        context.reporter.notice(
            f"{changed} rows are of files that have changed: --update makes them anew"
        )
    return _Job(
        store=target,
        resolved=resolved,
        configs=configs,
        maker=maker,
        arrays=arrays,
        derived=_derived(target, options.name),
        rows=rows,
        part=part,
        redo=[f for f in listed if f.row // unit_rows in part] if is_redo else [],
    )


def _refuse_partial_redo(store: Store, resolved: Resolved) -> None:
    """A row is listed once for all features of a set, so all of them are made anew together."""
    made = {name for name in store.arrays(resolved.options.name) if not name.startswith(PCA)}
    left_out = made - {spec.name for spec in resolved.arrays}
    if left_out:
        features = [*resolved.options.features, *sorted(n.split("/")[-1] for n in left_out)]
        raise UsageError(
            "rows are made anew for all features of a feature set together",
            where=f"feature set {resolved.options.name!r}",
            expected=", ".join(dict.fromkeys(features)),
            found=", ".join(resolved.options.features),
            hint=f"--features {','.join(dict.fromkeys(features))}",
        )


def _work(job: _Job, context: Context) -> ExtractResult:
    store, resolved, options = job.store, job.resolved, job.resolved.options
    tasks = [task for task in job.missing() if task.unit in job.part]
    images = count_images(tasks)
    _say_what_is_left(job, tasks, context)

    began = time.perf_counter()
    context.reporter.begin("images", job.own_rows(), done=job.own_rows() - images)
    compute_tasks(store, job.maker, resolved, job.arrays, tasks, context)
    context.reporter.end()
    seconds = time.perf_counter() - began
    redone = Redone(0, 0)
    if job.redo:
        redone = redo_rows(job.redo, store, job.maker, resolved, job.arrays, job.derived, context)
        _tell_redone(store, redone, job.derived, context)
    store.compact_failures()
    units_done = job.units
    if job.part != WHOLE:
        store.sweep()  # what others left, if this is the last of them
        units_done -= len({task.unit for task in job.missing()})
    return ExtractResult(
        store=str(store.root),
        feature_set=options.name,
        features=options.features,
        samples=job.rows,
        units_done=units_done,
        units_total=job.units,
        units_computed=len({task.unit for task in tasks}),
        images_computed=images,
        failed=_count_failed(store, options.name, job.rows),
        images_per_second=images / seconds if images else 0.0,
        fingerprints={feature: fingerprint(config) for feature, config in job.configs.items()},
        redone=redone.mended,
        worker=job.part,
        worker_units=len(job.own_units()),
    )


def _tell_redone(
    store: Store, redone: Redone, derived: Sequence[UnitArray], context: Context
) -> None:
    context.reporter.notice(f"{redone.mended} rows made anew, {redone.failing} cannot be read")
    if redone.mended and derived:
        names = ", ".join(array.name for array in derived)
        context.reporter.notice(
            f"{names}: the units of these rows are dropped; fungi pca makes them again"
        )
    older = [name for name in ("indexes", "heads") if (store.root / name).is_dir()]
    if redone.mended and older:
        context.reporter.notice(f"{' and '.join(older)} made before are older than these rows")


def _add_samples(store: Store, source: Source, context: Context, *, update: bool) -> None:
    """Add the source's samples; where nothing usable comes of it, no new store is left behind."""
    is_new = not len(store.samples)
    try:
        comparison = store.add_source(source, update=update)
        refuse_empty(store, source)
    except FungiError:
        if is_new:
            store.remove()
        raise
    if comparison.known and comparison.added:
        context.reporter.notice(
            f"{comparison.added} new images after {comparison.known} known ones"
        )
    if comparison.changed:
        consequence = (
            "their rows are made anew"
            if update
            else "their rows are kept as they are; --update makes them anew"
        )
        context.reporter.notice(
            f"{comparison.changed} images have another size or time than when they were added; "
            f"{consequence}"
        )
    if comparison.removed:
        names = ", ".join(comparison.first_removed)
        names += ", ..." if comparison.removed > len(comparison.first_removed) else ""
        context.reporter.notice(
            f"{comparison.removed} images are not in the source any more ({names}); "
            "their rows are kept"
        )


def _remove_feature_set(store: Store, feature_set: str, context: Context) -> None:
    arrays = store.arrays(feature_set)
    for array in arrays.values():
        rows = sum(commit.rows for commit in array.commits().values())
        context.reporter.notice(f"--restart: deleting {array.name} ({rows} rows)")
    store.remove_arrays(arrays.values())
    store.remove_unused_setups()
    store.compact_failures(forget=feature_set)


def _ready_arrays(
    store: Store,
    resolved: Resolved,
    configs: Mapping[str, Config],
    rows: int,
    context: Context,
) -> dict[str, UnitArray]:
    """Return the arrays to write, made or lengthened as needed, by their name in the set."""
    removed = store.sweep()
    if removed:
        context.reporter.notice(f"removed {removed} unfinished files of an interrupted run")
    existing = store.arrays(resolved.options.name)
    ready = {}
    for spec in resolved.arrays:
        array = existing.get(spec.name)
        if array is None:
            assert resolved.unit_rows is not None  # with_unit_rows has decided it
            is_vector = spec.feature != "patches"
            array = UnitArray.create(
                store.root,
                f"{resolved.options.name}/{spec.name}",
                shape=(rows, *spec.row_shape),
                dtype=spec.dtype,
                unit_rows=resolved.unit_rows,
                codec="zstd" if resolved.codec == "bitround" and is_vector else resolved.codec,
                fingerprint=fingerprint(configs[spec.feature]),
            )
        array.grow(rows)
        ready[spec.name] = array
    return ready


def _say_what_is_left(job: _Job, tasks: list[Task], context: Context) -> None:
    store, options = job.store, job.resolved.options
    units, to_go = len(job.own_units()), len({task.unit for task in tasks})
    who = "" if job.part == WHOLE else f"{job.part}: "
    if not tasks:
        context.reporter.notice(f"{who}nothing to do: all {units} units are done")
    elif count_images(tasks) < job.own_rows():
        failed = _count_failed(store, options.name, job.rows)
        inputs = "input" if failed == 1 else "inputs"
        context.reporter.notice(
            f"{who}resuming: {units - to_go}/{units} units done, {failed} failed {inputs}, "
            f"{to_go} to go"
        )
    else:
        features = ", ".join(options.features)
        context.reporter.notice(
            f"{who}extracting {features} of {job.own_rows()} images in {units} units"
        )
    needed, free = count_bytes(tasks, job.resolved.arrays), free_bytes(store.root)
    if needed > free:
        context.reporter.notice(
            f"warning: {needed / 1e9:.1f} GB to write, {free / 1e9:.1f} GB free"
        )


def _count_failed(store: Store, feature_set: str, rows: int) -> int:
    return sum(f.row < rows and f.feature_set == feature_set for f in store.failures())
