"""`fungi extract`: images in, committed units of features out; the stage from top to bottom."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fungistore.errors import FungiError
from fungistore.extraction.compute import compute_units
from fungistore.extraction.freeze import array_configs, by_array, freeze, settle
from fungistore.extraction.measure import free_bytes, refuse_empty, with_unit_rows
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.plan import Task, count_bytes, count_images, plan_tasks
from fungistore.extraction.resolve import Resolved
from fungistore.fingerprint import Config, fingerprint
from fungistore.report import Reporter, Silent
from fungistore.sources import Source, open_source
from fungistore.store import Store, UnitArray


@dataclass(frozen=True)
class ExtractResult:
    """What an extraction did.

    Attributes:
        store: the store's directory.
        feature_set: name of the feature set.
        features: what was extracted.
        samples: rows of the feature set.
        units_done: units committed in all.
        units_total: units that the rows make.
        units_computed: units committed by this run.
        images_computed: images computed by this run.
        failed: inputs that could not be read.
        images_per_second: of this run, loading and writing included; 0 where nothing was to do.
        fingerprints: of the setup of each feature.
    """

    store: str
    feature_set: str
    features: tuple[str, ...]
    samples: int
    units_done: int
    units_total: int
    units_computed: int
    images_computed: int
    failed: int
    images_per_second: float
    fingerprints: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        document = asdict(self)
        computed = document.pop("units_computed")
        done, total = document.pop("units_done"), document.pop("units_total")
        return document | {"units": {"done": done, "total": total, "computed": computed}}


def extract(
    source: str | Source,
    store: str | Path,
    options: ExtractOptions,
    *,
    restart: bool = False,
    reporter: Reporter | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> ExtractResult:
    """Write the features of a source's images into a store, continuing where it stopped.

    Args:
        source: a folder, manifest or tar shards, as `open_source` takes them, or a Source.
        store: the store's directory; made where nothing is.
        options: what to extract, and how.
        restart: first delete everything that the feature set has.
        reporter: is told what happens; default: nobody.
        stop: asked between batches; True ends the run with StoppedError, keeping whole units.

    Raises:
        UsageError: options, source or model cannot be used; nothing was written.
        MismatchError: the feature set was made with other settings; nothing was overwritten.
        StoreError: the store is damaged.
        StoppedError: `stop` asked for it.
        FungiError: a full disk, or an unreadable image under `on_error="fail"`.
    """
    path = Path(store)
    reporter = reporter or Silent()
    with _disk_errors_explained(path):
        opened = open_source(source) if isinstance(source, str) else source
        resolved = settle(path, options, restart=restart)
        with Store.open_or_create(path).writing():
            target = Store.open(path)  # as the last writer left it
            return _extract(target, opened, resolved, reporter, stop, restart=restart)


def _extract(
    target: Store,
    source: Source,
    resolved: Resolved,
    reporter: Reporter,
    stop: Callable[[], bool],
    *,
    restart: bool,
) -> ExtractResult:
    options = resolved.options
    _add_samples(target, source, reporter)
    if restart:
        _remove_feature_set(target, options.name, reporter)
    resolved = with_unit_rows(resolved, target.samples, stop)
    configs = array_configs(resolved)
    target.refuse_mismatch(options.name, by_array(resolved, configs))
    maker = freeze(resolved, target, configs, reporter, stop)
    rows = options.rows_of(len(target.samples))
    arrays = _ready_arrays(target, resolved, configs, rows, reporter)
    unit_rows = next(iter(arrays.values())).unit_rows
    tasks = plan_tasks(resolved.arrays, arrays, rows, unit_rows)
    units, to_go = -(-rows // unit_rows), len({task.unit for task in tasks})
    images = count_images(tasks)
    _say_what_is_left(target, resolved, tasks, units, to_go, rows, reporter)

    began = time.perf_counter()
    reporter.begin("images", rows, done=rows - images)
    compute_units(target, maker, resolved, arrays, tasks, reporter, stop)
    reporter.end()
    seconds = time.perf_counter() - began
    target.compact_failures()
    return ExtractResult(
        store=str(target.root),
        feature_set=options.name,
        features=options.features,
        samples=rows,
        units_done=units,
        units_total=units,
        units_computed=to_go,
        images_computed=images,
        failed=_count_failed(target, options.name, rows),
        images_per_second=images / seconds if images else 0.0,
        fingerprints={feature: fingerprint(config) for feature, config in configs.items()},
    )


def _add_samples(store: Store, source: Source, reporter: Reporter) -> None:
    """Add the source's samples; where nothing usable comes of it, no new store is left behind."""
    is_new = not len(store.samples)
    try:
        comparison = store.add_source(source)
        refuse_empty(store, source)
    except FungiError:
        if is_new:
            store.remove()
        raise
    if comparison.known and comparison.added:
        reporter.notice(f"{comparison.added} new images after {comparison.known} known ones")
    if comparison.changed:
        reporter.notice(
            f"{comparison.changed} images have another size or time than when they were added; "
            "their rows are kept as they are"
        )


def _remove_feature_set(store: Store, feature_set: str, reporter: Reporter) -> None:
    arrays = store.arrays(feature_set)
    for array in arrays.values():
        rows = sum(commit.rows for commit in array.commits().values())
        reporter.notice(f"--restart: deleting {array.name} ({rows} rows)")
    store.remove_arrays(arrays.values())
    store.remove_unused_setups()
    store.compact_failures(forget=feature_set)


def _ready_arrays(
    store: Store,
    resolved: Resolved,
    configs: Mapping[str, Config],
    rows: int,
    reporter: Reporter,
) -> dict[str, UnitArray]:
    """Return the arrays to write, made or lengthened as needed, by their name in the set."""
    removed = store.sweep()
    if removed:
        reporter.notice(f"removed {removed} unfinished files of an interrupted run")
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


def _say_what_is_left(
    store: Store,
    resolved: Resolved,
    tasks: list[Task],
    units: int,
    to_go: int,
    rows: int,
    reporter: Reporter,
) -> None:
    if not tasks:
        reporter.notice(f"nothing to do: all {units} units are done")
    elif count_images(tasks) < rows:
        failed = _count_failed(store, resolved.options.name, rows)
        inputs = "input" if failed == 1 else "inputs"
        reporter.notice(
            f"resuming: {units - to_go}/{units} units done, {failed} failed {inputs}, {to_go} to go"
        )
    else:
        features = ", ".join(resolved.options.features)
        reporter.notice(f"extracting {features} of {rows} images in {units} units")
    needed, free = count_bytes(tasks, resolved.arrays), free_bytes(store.root)
    if needed > free:
        reporter.notice(f"warning: {needed / 1e9:.1f} GB to write, {free / 1e9:.1f} GB free")


def _count_failed(store: Store, feature_set: str, rows: int) -> int:
    return sum(f.row < rows and f.feature_set == feature_set for f in store.failures())


@contextmanager
def _disk_errors_explained(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into an error that says what to do."""
    try:
        yield
    except OSError as error:
        hints = {
            errno.ENOSPC: "make room",
            errno.EDQUOT: "make room in your quota",
            errno.EROFS: "make the file system writable",
            errno.EACCES: "get permission to write there",
        }
        raise FungiError(
            "the store, or a file that it needs, cannot be used",
            where=error.filename or path,
            found=error.strerror or str(error),
            hint=f"{hints.get(error.errno or 0, 'mend that')}, then run the same command again: "
            "every committed unit is kept",
        ) from error
