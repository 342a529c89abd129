"""The loop that a run spends its time in: batches in, committed units out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fungistore.errors import ItemError
from fungistore.extraction.decoders import decode_elsewhere
from fungistore.extraction.features import FeatureMaker
from fungistore.extraction.loader import LoadedBatch, load_batches
from fungistore.extraction.plan import BatchPlan, Gap, count_samples, plan_batches
from fungistore.extraction.resolve import Resolved
from fungistore.fingerprint import digest_ids
from fungistore.location import shortened
from fungistore.machine.context import Context
from fungistore.machine.transfer import Fetch, one_behind, start_fetch
from fungistore.modalities.modality import Modality, with_article
from fungistore.quantities import counted
from fungistore.store.commit import Commit
from fungistore.store.failures import CHANGED_FILE, TRUNCATED, Failure, count_unread
from fungistore.store.feature import is_derived
from fungistore.store.item_digests import Digests, ItemDigests
from fungistore.store.store import Store
from fungistore.store.units import UnitArray

ArrayRows = dict[str, NDArray[Any]]  # by the array's path in the feature set


@dataclass(frozen=True)
class ComputedBatch:
    """One computed batch of the unit under way."""

    plan: BatchPlan
    failures: list[Failure]
    rows: ArrayRows
    digests: Digests


def fill_gaps(
    store: Store,
    maker: FeatureMaker,
    resolved: Resolved,
    arrays: Mapping[str, UnitArray],
    gaps: list[Gap],
    context: Context,
) -> None:
    """Compute and commit what is missing; raises what `compute_units` does."""

    name = resolved.options.name
    everything = [array for path, array in store.arrays(name).items() if not is_derived(path)]

    def commit(parts: list[ComputedBatch]) -> None:
        _note_items(store, name, everything, parts)
        _commit_unit(store, arrays, parts, context)

    plans = plan_batches(gaps, store.samples, resolved.batch_size)
    asked, device = resolved.options.decode_in, resolved.device.type
    count, samples = count_samples(gaps), store.samples
    in_processes = decode_elsewhere(asked, device, count, maker.drawer, samples)
    compute_units(plans, maker, resolved, commit, context, in_processes=in_processes)


def compute_units(
    plans: Iterable[BatchPlan],
    maker: FeatureMaker,
    resolved: Resolved,
    commit: Callable[[list[ComputedBatch]], None],
    context: Context,
    *,
    in_processes: bool = False,
) -> None:
    """Compute batch after batch; a thread commits a unit while the next one is computed.

    A GPU's batch is fetched only after the next one was launched, so that it always has work.

    Args:
        plans: the batches; `last` marks those that complete a unit.
        maker: makes the features.
        resolved: the settings.
        commit: publishes a unit's batches.
        context: its reporter is told what happens, its stop asked between batches.
        in_processes: items are decoded in processes instead of threads.

    Raises:
        StoppedError: `context` asked for it; the unit under way is dropped.
        ItemError: an item cannot be read, under `on_error="fail"`.
    """
    parts: list[ComputedBatch] = []
    pending: Future[None] | None = None

    def publish(parts: list[ComputedBatch]) -> None:
        with context.watch.stage("write"):
            commit(parts)

    def finish(pending: Future[None] | None) -> None:
        if pending is not None:
            with context.watch.stage("wait"):
                pending.result()

    with ThreadPoolExecutor(1, thread_name_prefix="fungi-commit") as writer:
        batches = load_batches(
            plans, maker, resolved.workers, context.watch, in_processes=in_processes
        )
        launches = _launches(batches, maker, resolved, context)
        for batch, fetch in one_behind(launches, maker.device):
            with context.watch.stage("fetch"):
                parts.append(_computed(batch, fetch(), resolved))
            context.reporter.advance(len(batch.plan.rows))
            if batch.plan.last:
                finish(pending)
                pending = writer.submit(publish, parts)
                parts = []
        finish(pending)


def _launches(
    batches: Iterable[LoadedBatch],
    maker: FeatureMaker,
    resolved: Resolved,
    context: Context,
) -> Iterator[tuple[LoadedBatch, Fetch]]:
    """Launch batch after batch; yield each with what fetches its features."""
    for batch in batches:
        context.stop_if_asked()
        if batch.failures and resolved.options.on_error == "fail":
            raise _as_error(batch.failures[0], resolved.modality)
        launched = maker.launch(batch.drawn, batch.plan.features, context)
        with context.watch.stage("fetch"):
            fetch = start_fetch(launched)
        yield batch, fetch


def _computed(batch: LoadedBatch, computed: ArrayRows, resolved: Resolved) -> ComputedBatch:
    """Return a batch as it is stored: in the arrays' types, unreadable rows NaN, no pixels."""
    dtypes = {spec.path: spec.dtype for spec in resolved.arrays}
    unreadable = {failure.row for failure in batch.failures if failure.error != TRUNCATED}
    failed = [i for i, row in enumerate(batch.plan.rows) if row["row"] in unreadable]
    with np.errstate(over="ignore"):  # infinities are counted at the commit
        stored: ArrayRows = {name: rows.astype(dtypes[name]) for name, rows in computed.items()}
    for rows in stored.values():
        rows[failed] = np.nan
    noted = [replace(f, feature_set=resolved.options.name) for f in batch.failures]
    return ComputedBatch(batch.plan, noted, stored, batch.digests)


def _note_items(
    store: Store, feature_set: str, arrays: Sequence[UnitArray], parts: list[ComputedBatch]
) -> None:
    """Publish the digests of a unit's items.

    Rows that other arrays of the feature set made from other bytes are listed as changed.
    """
    plan = parts[0].plan
    commits = filter(None, (array.commit(plan.unit) for array in arrays))
    made = max((commit.rows for commit in commits), default=0)
    rows = [row for part in parts for row in part.plan.rows]
    digests = np.concatenate([part.digests for part in parts])
    start = plan.unit * arrays[0].unit_rows
    noted = ItemDigests(store.backend, feature_set)
    others = noted.add(plan.unit, rows[0]["row"] - start, digests, made)
    uris = {row["row"]: row["uri"] for row in rows}
    message = "the file has changed since other features of it were made"
    store.add_failures(
        Failure(start + place, uris[start + place], CHANGED_FILE, message, feature_set)
        for place in others
    )


def _commit_unit(
    store: Store,
    arrays: Mapping[str, UnitArray],
    parts: list[ComputedBatch],
    context: Context,
) -> None:
    """Publish a unit's rows in every array that lacks them, after its failures are on disk."""
    plan = parts[0].plan
    failures = [failure for part in parts for failure in part.failures]
    store.add_failures(failures)
    first, last = plan.rows[0]["row"], parts[-1].plan.rows[-1]["row"]
    for name in list(parts[0].rows):
        array = arrays[name]
        start = plan.unit * array.unit_rows
        before = array.commit(plan.unit)
        if before is not None and start + before.rows > last:
            continue  # committed before a kill that hit the feature's other array
        block = _taken(array, start, first if before else start, parts, name)
        ids = digest_ids(row["id"] for row in store.samples.rows(start, last + 1))
        earlier = before.failed if before is not None else 0
        failed = earlier + count_unread(failures)
        tell_unusable(array.publish(plan.unit, block, ids, failed), name, context)


def _taken(
    array: UnitArray, start: int, first: int, parts: list[ComputedBatch], name: str
) -> NDArray[Any]:
    """Return a unit's rows from `start` on: up to `first` the stored ones, then what was computed.

    The parts lose them one by one, for units may be large: all of it is in memory once.
    """
    count = sum(len(part.rows[name]) for part in parts)
    block = np.empty((first - start + count, *array.array.shape[1:]), array.array.dtype)
    if first > start:  # complete a partly filled unit
        block[: first - start] = array.read(start, first)
    filled = first - start
    for part in parts:
        rows = part.rows.pop(name)
        block[filled : filled + len(rows)] = rows
        filled += len(rows)
    return block


def tell_unusable(commit: Commit, name: str, context: Context) -> None:
    """Say that a unit has values that are not finite though its items could be read."""
    if commit.inf_rows or commit.nan_rows > commit.failed:
        context.reporter.notice(
            f"{name}: unit {commit.unit} has {counted(commit.inf_rows, 'row')} with infinities and "
            f"{commit.nan_rows - commit.failed} with NaN; "
            "try --storage-dtype float32 or --dtype float32"
        )


def _as_error(failure: Failure, modality: Modality) -> ItemError:
    return modality.error(
        f"{with_article(modality.item)} cannot be read",
        where=shortened(failure.uri),
        found=failure.message,
        hint=f"--on-error skip lists such {modality.items} and goes on",
    )
