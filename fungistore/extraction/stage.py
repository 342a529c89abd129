"""`fungi extract`: by this process alone, or by the workers of an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from fungistore.engines.engine import DividedWork, Engine, Local, Place, RunSlice
from fungistore.errors import FungiError, UsageError
from fungistore.extraction.loader import default_workers
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.resolve import opened_source
from fungistore.extraction.result import ExtractResult, rates_by_node
from fungistore.extraction.run import Extraction, listed_failures
from fungistore.fingerprint import Config
from fungistore.machine.context import DEFAULT, Context
from fungistore.sources.sample import Source
from fungistore.store.feature import is_derived
from fungistore.store.locks import WHOLE, Slice
from fungistore.store.store import Store

ALONE = Local()


def extract(
    source: str | Path | Sequence[str | Path] | Source,
    store: str | Path,
    options: ExtractOptions,
    *,
    restart: bool = False,
    update: bool = False,
    retry_failed: bool = False,
    engine: Engine = ALONE,
    context: Context = DEFAULT,
) -> ExtractResult:
    """Write the features of a source's samples into a store, continuing where it stopped.

    Args:
        source: a folder, manifest or tar shards, as `open_source` takes them; a list of
            paths of single files; or a Source.
        store: the store's directory; made where nothing is.
        options: what to extract, and how.
        restart: first delete everything that the feature set has.
        update: make the rows of files that have changed anew, and try failed inputs again.
        retry_failed: try failed inputs again.
        engine: who runs which slice of the units: `Local()`, this process, all of them;
            `Local(Slice(0, 8))` the first of eight slices; `Processes(("cuda:0", "cuda:1"))` two
            processes all of them; `Ray()` workers on a cluster.
        context: its reporter is told what happens, its stop asked between batches; True ends the
            run with StoppedError, keeping whole units.

    Raises:
        UsageError: options, source or model cannot be used; nothing was written.
        MismatchError: the feature set was made with other settings; nothing was overwritten.
        StoreError: the store is damaged.
        StoppedError: `context` asked for it.
        FungiError: a full disk, an unreadable item under `on_error="fail"`, or another process
            that writes the same.
    """
    if isinstance(engine, Local):
        _refuse_restart_of_one(engine.part, restart=restart)
        extraction = Extraction(
            opened_source(source, options.model),
            store,
            options,
            restart=restart,
            update=update,
            retry_failed=retry_failed,
            context=context,
        )
        return extraction.run(engine.part)
    _refuse_undividable(source, restart=restart)
    arguments = {
        "source": str(source),
        "store": str(store),
        "options": options.to_config(),
        "update": update,
        "retry_failed": retry_failed,
    }
    work = DividedWork(
        f"{__name__}:{open_extraction.__name__}", arguments, store=str(store), source=str(source)
    )
    _say_what_is_done(store, options, context)
    results = engine.run(work, context)
    if not results:
        raise FungiError("the engine has run no slice", found=repr(engine))
    done = joined(TypeAdapter(list[ExtractResult]).validate_python(results))
    # what one worker saw of the list may have been mended by another since
    listed = listed_failures(Store.open(store), done.feature_set, done.samples)
    return replace(done, failed=listed.failed, failures=listed.failures, truncated=listed.truncated)


def open_extraction(arguments: Config, place: Place, context: Context) -> RunSlice:
    """Load the model once and return what extracts slice after slice, in a worker of an engine."""
    options = ExtractOptions.from_config(arguments["options"])
    device = place.device or options.device
    threads = options.workers or default_workers(device.partition(":")[0], place.neighbours)
    extraction = Extraction(
        opened_source(arguments["source"], options.model),
        arguments["store"],
        replace(options, device=device, workers=threads),
        restart=False,
        update=arguments["update"],
        retry_failed=arguments["retry_failed"],
        context=context,
    )

    def run(part: Slice) -> Config:
        result: dict[str, Any] = asdict(replace(extraction.run(part), node=place.node))
        return result

    return run


def joined(results: Sequence[ExtractResult]) -> ExtractResult:
    """Put the results of slices together; the store's state is what the last of them saw."""
    last = max(results, key=lambda result: result.units_done)
    rates = rates_by_node(results)
    return replace(
        last,
        units_computed=sum(result.units_computed for result in results),
        images_computed=sum(result.images_computed for result in results),
        images_per_second=sum(rate.images_per_second for rate in rates),
        redone=sum(result.redone for result in results),
        worker=WHOLE,
        worker_units=last.units_total,
        workers=tuple(results),
        node="",
        nodes=tuple(rate for rate in rates if rate.node),
    )


def _say_what_is_done(store: str | Path, options: ExtractOptions, context: Context) -> None:
    if not Store.exists(store):
        return
    arrays = Store.open(store).arrays(options.name)
    own = [array for name, array in arrays.items() if not is_derived(name)]
    done = min((len(array.commits()) for array in own), default=0)
    if done:
        total = max(-(-array.array.shape[0] // array.unit_rows) for array in own)
        context.reporter.notice(f"resuming: {done}/{total} units done")


def _refuse_undividable(
    source: str | Path | Sequence[str | Path] | Source, *, restart: bool
) -> None:
    if not isinstance(source, str | Path) or str(source) == "-":
        raise UsageError(
            "several workers cannot read one standard input, a list, or a Python object",
            where="the source",
            expected="a folder, a manifest or shards",
            hint="write the list into a manifest: a .csv file with a column `path`",
        )
    if restart:
        raise UsageError(
            "workers cannot start a feature set anew together",
            where="--restart",
            hint="first with one process: the same command with --restart --limit 1; then the "
            "workers, without --restart",
        )


def _refuse_restart_of_one(part: Slice, *, restart: bool) -> None:
    if restart and part != WHOLE:
        raise UsageError(
            "one worker of several cannot start the feature set anew",
            where="--restart",
            found=str(part),
            hint="first let one process do it: the same command with --restart --limit 1 and "
            "without workers; then start the workers without --restart",
        )
