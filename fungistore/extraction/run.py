"""`fungi extract`: images in, committed units of features out; the stage from top to bottom."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fungistore.errors import FungiError, UsageError
from fungistore.extraction.compute import compute_units
from fungistore.extraction.freeze import (
    array_configs,
    freeze,
    frozen_choices,
    throwaway_features,
)
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.plan import (
    Estimate,
    Rate,
    Task,
    choose_unit_rows,
    free_bytes,
    measure_rate,
    plan_tasks,
)
from fungistore.extraction.resolve import Resolved, resolve
from fungistore.fingerprint import Config, fingerprint
from fungistore.report import Reporter, Silent
from fungistore.sources import Source, open_source
from fungistore.store import Failure, Store, UnitArray


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
        is_new = not path.exists()
        resolved = resolve(options, {} if restart else _frozen(path, options.name))
        target = Store.open_or_create(path)
        _announce(target, opened, path, is_new, reporter)
        if restart:
            _restart(target, options.name, reporter)
        run = _Run(target, resolved, reporter, stop)
        return run.execute()


def estimate(source: str | Source, store: str | Path, options: ExtractOptions) -> Estimate:
    """Return what `extract` would do, from two timed batches; writes nothing into the store.

    Raises:
        As `extract`.
    """
    path = Path(store)
    opened = open_source(source) if isinstance(source, str) else source
    resolved = resolve(options, _frozen(path, options.name))
    with TemporaryDirectory() as directory:  # the same steps, on a copy of the sample table
        scratch = Store.open(path).copy_samples(Path(directory)) if path.exists() else None
        scratch = scratch or Store.open_or_create(Path(directory))
        scratch.add_source(opened)
        _refuse_empty(scratch, opened)
        real = Store.open(path) if path.exists() else scratch
        return _Run(real, resolved, Silent(), lambda: False, samples_from=scratch).estimate()


class _Run:
    """One extraction over one feature set; holds what its steps share."""

    def __init__(
        self,
        store: Store,
        resolved: Resolved,
        reporter: Reporter,
        stop: Callable[[], bool],
        samples_from: Store | None = None,
    ) -> None:
        self.store = store
        self.samples = (samples_from or store).samples
        self.resolved = resolved
        self.options = resolved.options
        self.name = resolved.options.name
        self.reporter = reporter
        self.stop = stop
        self.specs = resolved.arrays
        self.features = frozenset(self.options.features)
        self.rows = min(len(self.samples), self.options.limit or len(self.samples))
        frozen = frozen_choices(store, self.name)
        self.codec = self.options.codec or frozen.get("layout.codec") or "none"
        self.frozen_unit_rows: int | None = self.options.unit_rows or frozen.get("layout.unit_rows")

    def execute(self) -> ExtractResult:
        """Freeze, plan, compute, commit."""
        unit_rows = self.frozen_unit_rows or choose_unit_rows(self._rate(), self.specs)
        configs = array_configs(self.resolved, unit_rows, self.codec)
        self.store.refuse_mismatch(self.name, configs)
        arrays = self.store.arrays(self.name)
        maker = freeze(self.resolved, self.store, configs, self.reporter, self.stop)
        arrays = self._ready_arrays(arrays, configs, unit_rows)
        tasks = plan_tasks(self.specs, arrays, self.rows, unit_rows)
        units_total = -(-self.rows // unit_rows)
        to_go = len({task.unit for task in tasks})
        self._say_what_is_left(units_total, to_go, tasks)
        images = sum(task.stop - task.start for task in tasks)
        began = time.perf_counter()
        self.reporter.begin("images", self.rows, done=self.rows - images)
        compute_units(self.store, maker, self.resolved, arrays, tasks, self.reporter, self.stop)
        self.reporter.end()
        seconds = time.perf_counter() - began
        self.store.compact_failures()
        return ExtractResult(
            store=str(self.store.root),
            feature_set=self.name,
            features=self.options.features,
            samples=self.rows,
            units_done=units_total,
            units_total=units_total,
            units_computed=to_go,
            images_computed=images,
            failed=len(self._failures()),
            images_per_second=images / seconds if images else 0.0,
            fingerprints={feature: fingerprint(config) for feature, config in configs.items()},
        )

    def estimate(self) -> Estimate:
        """Measure, and add up what is missing."""
        rate = self._rate()
        unit_rows = self.frozen_unit_rows or choose_unit_rows(rate, self.specs)
        configs = array_configs(self.resolved, unit_rows, self.codec)
        self.store.refuse_mismatch(self.name, configs)
        tasks = plan_tasks(self.specs, self.store.arrays(self.name), self.rows, unit_rows)
        images = sum(task.stop - task.start for task in tasks)
        maker = throwaway_features(self.resolved)
        forwards = maker.forwards(self.features)
        negatives = sum(
            count * maker.forwards(frozenset([feature])) / forwards
            for feature, count in self.resolved.negative_images.items()
            if not self.store.has_setup(fingerprint(configs[feature]))
        )
        return Estimate(
            store=str(self.store.root),
            feature_set=self.name,
            samples=self.rows,
            images=images,
            units=len({task.unit for task in tasks}),
            unit_rows=unit_rows,
            batch_size=self.resolved.batch_size,
            bytes=self._bytes(tasks),
            free_bytes=free_bytes(self.store.root),
            seconds=((images + negatives) / rate.high, (images + negatives) / rate.low),
            forwards_per_image=forwards,
        )

    def _rate(self) -> Rate:
        size, workers = self.resolved.batch_size, self.resolved.workers
        return measure_rate(
            self.samples, self.features, throwaway_features(self.resolved), size, workers
        )

    def _ready_arrays(
        self, arrays: dict[str, UnitArray], configs: Mapping[str, Config], unit_rows: int
    ) -> dict[str, UnitArray]:
        """Create the arrays that are missing and lengthen the others."""
        removed = self.store.sweep()
        if removed:
            self.reporter.notice(f"removed {removed} unfinished files of an interrupted run")
        ready = {}
        for spec in self.specs:
            array = arrays.get(spec.name)
            if array is None:
                lossy = self.codec == "bitround" and spec.feature == "patches"
                codec = self.codec if self.codec != "bitround" or lossy else "zstd"
                array = UnitArray.create(
                    self.store.root,
                    f"{self.name}/{spec.name}",
                    shape=(self.rows, *spec.row_shape),
                    dtype=spec.dtype,
                    unit_rows=unit_rows,
                    codec=codec,
                    fingerprint=fingerprint(configs[spec.feature]),
                )
            array.grow(self.rows)
            ready[spec.name] = array
        return ready

    def _failures(self) -> list[Failure]:
        return [failure for failure in self.store.failures() if failure.row < self.rows]

    def _say_what_is_left(self, units_total: int, to_go: int, tasks: list[Task]) -> None:
        done = units_total - to_go
        if not tasks:
            self.reporter.notice(f"nothing to do: all {units_total} units are done")
        elif done or any(task.start % (self.frozen_unit_rows or 1) for task in tasks):
            failed = len(self._failures())
            inputs = "input" if failed == 1 else "inputs"
            self.reporter.notice(
                f"resuming: {done}/{units_total} units done, "
                f"{failed} failed {inputs}, {to_go} to go"
            )
        else:
            self.reporter.notice(
                f"extracting {', '.join(self.options.features)} of {self.rows} images "
                f"in {units_total} units"
            )
        needed, free = self._bytes(tasks), free_bytes(self.store.root)
        if needed > free:
            self.reporter.notice(
                f"warning: about {needed / 1e9:.1f} GB to write, {free / 1e9:.1f} GB free"
            )

    def _bytes(self, tasks: Iterable[Task]) -> int:
        per_feature: dict[str, int] = {}
        for spec in self.specs:
            per_feature[spec.feature] = per_feature.get(spec.feature, 0) + spec.row_bytes
        return sum(
            (task.stop - task.start) * sum(per_feature[feature] for feature in task.features)
            for task in tasks
        )


def _frozen(path: Path, feature_set: str) -> Config:
    return frozen_choices(Store.open(path), feature_set) if path.exists() else {}


def _announce(store: Store, source: Source, path: Path, is_new: bool, reporter: Reporter) -> None:
    """Add the source's samples and say what they are; an empty source leaves no store behind."""
    comparison = store.add_source(source)
    try:
        _refuse_empty(store, source)
    except UsageError:
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


def _refuse_empty(store: Store, source: Source) -> None:
    if len(store.samples) == 0:
        raise UsageError(
            "no images found",
            where=source.root,
            expected="at least one image",
            hint="see `fungi extract --help` for what a SOURCE can be",
        )


def _restart(store: Store, feature_set: str, reporter: Reporter) -> None:
    arrays = store.arrays(feature_set)
    for array in arrays.values():
        rows = sum(commit.rows for commit in array.commits().values())
        reporter.notice(f"--restart: deleting {array.name} ({rows} rows)")
    store.remove_arrays(arrays.values())


@contextmanager
def _disk_errors_explained(path: Path) -> Iterator[None]:
    """Turn a full disk or a read-only one into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        raise FungiError(
            "the store cannot be written",
            where=error.filename or path,
            found=f"{error.strerror}; {free_bytes(path) / 1e6:.0f} MB free",
            hint="every committed unit is kept: make room, then run the same command again",
        ) from error
