"""One process's extraction: samples in, committed units of features out, from top to bottom."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice

from fungistore.annotating.of_source import take_source_masks
from fungistore.backbones.families import spelled_model
from fungistore.extraction.adding import add_samples
from fungistore.extraction.borrowing import Banks, borrowed_banks, refuse_other_banks
from fungistore.extraction.compute import fill_gaps
from fungistore.extraction.cut import count_cut
from fungistore.extraction.features import FeatureMaker
from fungistore.extraction.freeze import array_configs, as_frozen, by_array, freeze, settle
from fungistore.extraction.growth import growth_of_units
from fungistore.extraction.measure import (
    with_fitting_batch,
    with_unit_rows,
)
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.plan import Gap, count_samples, find_gaps
from fungistore.extraction.redo import Redone, redo_rows, refuse_partial_redo
from fungistore.extraction.resolve import Resolved
from fungistore.extraction.result import FIRST_FAILURES, ExtractResult
from fungistore.extraction.versions import say_other_versions
from fungistore.fingerprint import Config, fingerprint
from fungistore.machine.context import Context
from fungistore.quantities import counted, size
from fungistore.sources.sample import Source
from fungistore.store.backend import StorePlace, open_backend
from fungistore.store.disk_errors import disk_errors_explained
from fungistore.store.failed import FailedInput, common_cause, described
from fungistore.store.failures import CHANGED_FILE, TRUNCATED, Failure
from fungistore.store.feature import is_derived
from fungistore.store.item_digests import ItemDigests
from fungistore.store.locks import WHOLE, Slice
from fungistore.store.mismatch import refuse_mismatch
from fungistore.store.store import Store
from fungistore.store.units import UnitArray


class Extraction:
    """A loaded model and a store that lists a source's samples: runs slice after slice.

    Several processes may extract into one store at once, each with slices of its own: whoever comes
    first freezes what all of them use, the others wait for that moment.

    Args:
        source: the samples.
        store: the store's directory; made where nothing is.
        options: what to extract, and how.
        restart: first delete everything that the feature set has.
        update: make the rows of files that have changed anew, and try failed inputs again.
        retry_failed: try failed inputs again.
        context: its reporter is told what happens, its stop asked between batches.

    Raises:
        As `fungistore.extract`.
    """

    def __init__(
        self,
        source: Source,
        store: StorePlace,
        options: ExtractOptions,
        *,
        restart: bool,
        update: bool,
        retry_failed: bool,
        context: Context,
    ) -> None:
        self._place = open_backend(store)
        self._context = context
        self._restart = restart
        self._is_redo = update or retry_failed
        self._maker: FeatureMaker | None = None
        self._borrowed: Banks = {}
        with disk_errors_explained(self._place.where):
            context.reporter.notice(f"loading {spelled_model(options.model)}")
            self._resolved = settle(self._place, options, restart=restart)
            made = Store.open_or_create(self._place)
            with made.writing("samples", patience=context) as target:
                self._understood = add_samples(
                    target, source, self._resolved.modality, context, update=update
                )
            self._masks = take_source_masks(made, source, options.on_error, context)

    def run(self, part: Slice) -> ExtractResult:
        """Compute and commit what a slice of the units lacks."""
        name, context = self._resolved.options.name, self._context
        with disk_errors_explained(self._place.where), ExitStack() as held:
            store = Store.open(self._place)
            with store.writing(f"prepare/{name}", patience=context) as preparing:
                if self._restart:
                    with preparing.writing(f"features/{name}") as whole:
                        self._borrow(whole)  # what cannot be had is refused while all is there
                        _remove_feature_set(whole, name, context)
                    self._restart = False
                things = _things(preparing, self._resolved)
                target = held.enter_context(preparing.writing(*things, part=part))
                ready = self._prepare(target, part)
            done = _extract(ready, context)
            return replace(done, understood=self._understood, masks=self._masks)

    def _borrow(self, store: Store) -> None:
        """Read the banks of --bank-from, which may be of the feature set that is deleted next."""
        resolved, configs = self._decide(store)
        self._borrowed = borrowed_banks(resolved, configs)
        refuse_other_banks(store, resolved, configs, self._borrowed, restart=True)

    def _decide(self, store: Store) -> tuple[Resolved, dict[str, Config]]:
        """Return the settings with what is decided by a measurement, and their configurations."""
        resolved = with_fitting_batch(self._resolved, store.samples, self._context)
        self._resolved = with_unit_rows(resolved, store.samples, self._context)
        return self._resolved, array_configs(self._resolved)

    def _prepare(self, target: Store, part: Slice) -> _Ready:
        options, context = self._resolved.options, self._context
        if self._is_redo:
            refuse_partial_redo(target, self._resolved)
        if self._maker is None and part.index == 0:  # of several workers one says it
            for remark in self._resolved.remarks:  # before a measurement that takes its time
                context.reporter.notice(remark)
        self._resolved = as_frozen(self._resolved, target)
        resolved, configs = self._decide(target)
        refuse_mismatch(target, options.name, by_array(resolved, configs))
        if self._maker is None:
            borrowed = self._borrowed or borrowed_banks(resolved, configs)
            self._maker = freeze(resolved, target, configs, borrowed, context)
            if part.index == 0:
                keys = [fingerprint(config) for config in configs.values()]
                say_other_versions(target.setups, keys, context.reporter)
        rows = options.rows_of(len(target.samples))
        arrays = _ready_arrays(target, resolved, configs, rows, context)
        unit_rows = next(iter(arrays.values())).unit_rows
        listed = list(target.each_failure(options.name, rows))
        changed = sum(failure.error == CHANGED_FILE for failure in listed)
        if changed and not self._is_redo:
            said = counted(changed, "row is", "rows are")
            context.reporter.notice(f"{said} of files that have changed: --update makes them anew")
        return _Ready(
            store=target,
            resolved=resolved,
            configs=configs,
            maker=self._maker,
            arrays=arrays,
            derived=_derived(target, options.name),
            rows=rows,
            part=part,
            redo=[f for f in listed if f.row // unit_rows in part] if self._is_redo else [],
        )


@dataclass(frozen=True)
class _Ready:
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

    def missing(self) -> list[Gap]:
        arrays = dict(self.arrays)
        return find_gaps(self.resolved.arrays, arrays, self.rows, self.unit_rows)


def _things(store: Store, resolved: Resolved) -> list[str]:
    """Return what is locked: the arrays, and those derived from them, whose units may go."""
    name = resolved.options.name
    derived = [array.name for array in _derived(store, name)]
    return sorted(
        f"features/{array}" for array in [f"{name}/{s.path}" for s in resolved.arrays] + derived
    )


def _derived(store: Store, feature_set: str) -> list[UnitArray]:
    arrays = store.arrays(feature_set)
    return [array for name, array in arrays.items() if is_derived(name)]


def _extract(ready: _Ready, context: Context) -> ExtractResult:
    store, resolved, options = ready.store, ready.resolved, ready.resolved.options
    gaps = [gap for gap in ready.missing() if gap.unit in ready.part]
    samples = count_samples(gaps)
    _say_what_is_left(ready, gaps, context)

    began, first = time.perf_counter(), time.time()
    context.reporter.begin(
        resolved.modality.items, ready.own_rows(), done=ready.own_rows() - samples
    )
    fill_gaps(store, ready.maker, resolved, ready.arrays, gaps, context)
    context.reporter.end()
    seconds = time.perf_counter() - began
    redone = Redone(0, 0)
    if ready.redo:
        redone = redo_rows(
            ready.redo, store, ready.maker, resolved, ready.arrays, ready.derived, context
        )
        _tell_redone(store, redone, ready.derived, context)
    store.compact_failures()
    units_done = ready.units
    if ready.part != WHOLE:
        store.sweep()  # what others left, if this is the last of them
        units_done -= len({gap.unit for gap in ready.missing()})
    unusable = {name: _count_unusable(array) for name, array in ready.arrays.items()}
    for name, count in unusable.items():
        if count:
            context.reporter.notice(
                f"{name}: {count} of {counted(ready.rows, 'row has', 'rows have')} "
                f"NaN, infinities or nothing but zeros, "
                "though their inputs could be read; try --dtype float32, --storage-dtype float32"
            )
    listed = listed_failures(store, options.name, ready.rows)
    if listed.truncated:
        said = counted(listed.truncated, "input ends", "inputs end")
        context.reporter.notice(
            f"{said} too early, read as far as they go; fungi status --failures lists them"
        )
    return ExtractResult(
        store=store.where,
        feature_set=options.name,
        features=options.features,
        samples=ready.rows,
        units_done=units_done,
        units_total=ready.units,
        units_computed=len({gap.unit for gap in gaps}),
        images_computed=samples,
        failed=listed.failed,
        failures=listed.failures,
        truncated=listed.truncated,
        cut=count_cut(ready.arrays, ready.rows, resolved, context),
        cause=common_cause(store, listed.failures) if listed.failed >= ready.rows else None,
        unusable=max(unusable.values()),
        images_per_second=samples / seconds if samples else 0.0,
        fingerprints={feature: fingerprint(config) for feature, config in ready.configs.items()},
        banks={f: digest for f, c in ready.configs.items() for digest in _bank_digests(store, c)},
        backbone=resolved.backbone.identity(),
        remarks=resolved.remarks,
        redone=redone.mended,
        worker=ready.part,
        worker_units=len(ready.own_units()),
        began=first,
        seconds=seconds,
    )


@dataclass(frozen=True)
class Listed:
    """Inputs that could not be read, and the first of them; and those that end too early."""

    failed: int
    failures: tuple[FailedInput, ...]
    truncated: int


def listed_failures(store: Store, feature_set: str, rows: int) -> Listed:
    """Count the listed inputs of a feature set's rows."""
    counts = Counter(one.error == TRUNCATED for one in store.each_failure(feature_set, rows))
    unread = (one for one in store.each_failure(feature_set, rows) if one.error != TRUNCATED)
    first = tuple(described(store, islice(unread, FIRST_FAILURES)))
    return Listed(counts[False], first, counts[True])


def _bank_digests(store: Store, config: Config) -> Iterable[str]:
    return store.setups.banks(fingerprint(config)).values()


def _tell_redone(
    store: Store, redone: Redone, derived: Sequence[UnitArray], context: Context
) -> None:
    mended = counted(redone.mended, "row")
    context.reporter.notice(f"{mended} made anew, {redone.failing} cannot be read")
    if redone.mended and derived:
        names = ", ".join(array.name for array in derived)
        context.reporter.notice(
            f"{names}: the units of these rows are dropped; fungi pca makes them again"
        )
    older = [name for name in ("indexes", "heads") if store.folder(name).folders()]
    if redone.mended and older:
        context.reporter.notice(f"{' and '.join(older)} made before are older than these rows")


def _remove_feature_set(store: Store, feature_set: str, context: Context) -> None:
    arrays = store.arrays(feature_set)
    for array in arrays.values():
        rows = sum(commit.rows for commit in array.commits().values())
        context.reporter.notice(f"--restart: deleting {array.name} ({counted(rows, 'row')})")
    ItemDigests(store.backend, feature_set).remove()  # never those of rows that are gone
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
        files = counted(removed, "unfinished file")
        context.reporter.notice(f"removed {files} of an interrupted run")
    existing = store.arrays(resolved.options.name)
    ready = {}
    for spec in resolved.arrays:
        array = existing.get(spec.path)
        if array is None:
            array = resolved.create_array(store, spec, rows, configs[spec.asked])
        array.grow(rows)
        ready[spec.path] = array
    return ready


def _say_what_is_left(ready: _Ready, gaps: list[Gap], context: Context) -> None:
    store, options = ready.store, ready.resolved.options
    units, to_go = len(ready.own_units()), len({gap.unit for gap in gaps})
    who = "" if ready.part == WHOLE else f"{ready.part}: "
    if not gaps:
        all_units = counted(units, "unit is", "units are")
        context.reporter.notice(f"{who}nothing to do: all {all_units} done")
    elif count_samples(gaps) < ready.own_rows():
        failed = sum(1 for _ in store.each_failure(options.name, ready.rows))
        context.reporter.notice(
            f"{who}resuming: {units - to_go}/{units} units done, "
            f"{counted(failed, 'failed input')}, {to_go} to go"
        )
    else:
        features = ", ".join(options.features)
        context.reporter.notice(
            f"{who}extracting {features} of {ready.own_rows()} {ready.resolved.modality.items} "
            f"in {counted(units, 'unit')}"
        )
    needed = growth_of_units(
        gaps,
        ready.resolved.arrays,
        ready.arrays,
        ready.unit_rows,
        ready.resolved.shard_units,
        ready.resolved.codec,
        ItemDigests(store.backend, options.name).sizes(),
    )
    free = store.backend.free_bytes()
    if free is not None and needed > free:
        context.reporter.notice(f"warning: {size(needed)} to write, {size(free)} free")


def _count_unusable(array: UnitArray) -> int:
    """Count rows without a usable value whose inputs could be read, as the records have them."""
    if array.feature.kind == "numbers":
        return 0  # a norm of zero is that of a gradient of zeros, which counts
    commits = array.commits().values()
    # a row may have NaN and infinities
    return sum(max(c.nan_rows - c.failed, c.inf_rows) + c.zero_rows for c in commits)
