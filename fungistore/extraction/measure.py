"""How fast this machine extracts, measured before the work; the dry run, and the size of a unit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from fungistore.errors import FullMemoryError, UsageError
from fungistore.extraction.banks import bank_forwards, bank_notices, samples_left, samples_of
from fungistore.extraction.borrowing import borrowed_banks
from fungistore.extraction.decoders import decode_elsewhere
from fungistore.extraction.features import FeatureMaker
from fungistore.extraction.freeze import array_configs, bank_blocks, settle, throwaway_features
from fungistore.extraction.growth import (
    bytes_below,
    growth_of_listing,
    growth_of_setups,
    growth_of_units,
)
from fungistore.extraction.loader import MOST_LOADED, load_batches
from fungistore.extraction.options import ExtractOptions
from fungistore.extraction.plan import BatchPlan, count_samples, find_gaps
from fungistore.extraction.recognition import Recognition
from fungistore.extraction.redo import refuse_partial_redo
from fungistore.extraction.resolve import Resolved, opened_source
from fungistore.fingerprint import Config, fingerprint
from fungistore.machine.context import DEFAULT, Context
from fungistore.machine.device import default_batch_size
from fungistore.machine.powers import power_of_two_within
from fungistore.modalities.modality import Modality
from fungistore.sources.advice import empty_hint
from fungistore.sources.sample import Source, ignored_by, source_remarks
from fungistore.store.backend import open_backend
from fungistore.store.copying import copy_samples
from fungistore.store.feature import Feature, objective_name
from fungistore.store.item_digests import ItemDigests
from fungistore.store.listing import add_source
from fungistore.store.samples import SampleTable
from fungistore.store.store import Store
from fungistore.store.understood import Understood, said_ignored, understood
from fungistore.store.units import LARGEST_UNIT

UNIT_SECONDS = 60  # a kill loses about this much work at most
PATCH_CHUNK_BYTES = 100 << 20
PROBES = 2


@dataclass(frozen=True)
class Rate:
    """Samples per second, the slowest and the fastest of the batches that were timed."""

    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """What a dry run tells.

    Attributes:
        store: the store's directory.
        feature_set: name of the feature set.
        samples: those of the source and the store together, after --limit.
        images: samples still to be computed, or to be made anew.
        units: units that they are in.
        unit_rows: rows of a unit.
        unit_is_measured: whether that follows from the rate: it is measured anew before the work.
        batch_size: samples, or views, in one forward.
        bytes: by which the store's files will grow: whole chunks, their records, what is frozen
            before them, and the table of samples. What inputs that cannot be read are listed with
            is not known.
        bytes_are_most: whether a codec compresses, so that they will be fewer.
        deleted_bytes: of the feature set that a restart deletes first.
        free_bytes: bytes free where the store is, None where there is no limit.
        seconds: shortest and longest expected time.
        forwards_per_image: what one sample costs.
        backbone: what decides the encoder's outputs: model, weights, transform.
        understood: what the table would say of all samples, and what the source has left out.
        remarks: what the user should know of the source, what the encoder says of its weights and
            transform, what its own size costs, and what banks that are still to be made will be.
    """

    store: str
    feature_set: str
    samples: int
    images: int
    units: int
    unit_rows: int
    unit_is_measured: bool
    batch_size: int
    bytes: int
    bytes_are_most: bool
    deleted_bytes: int
    free_bytes: int | None
    seconds: tuple[float, float]
    forwards_per_image: int
    backbone: Config
    understood: Understood
    remarks: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the bytes are free, or will be."""
        return self.free_bytes is None or self.bytes <= self.free_bytes + self.deleted_bytes

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


def estimate(
    source: str | Path | Sequence[str | Path] | Source,
    store: str | Path,
    options: ExtractOptions,
    *,
    restart: bool = False,
    update: bool = False,
    retry_failed: bool = False,
    context: Context = DEFAULT,
) -> Estimate:
    """Return what `extract` would do, from two timed batches; writes nothing into the store.

    Args:
        source: as for `extract`.
        store: as for `extract`.
        options: as for `extract`.
        restart: as for `extract`.
        update: as for `extract`.
        retry_failed: as for `extract`.
        context: its reporter is told what happens, its stop asked between batches.

    Raises:
        FungiError: as `extract` does.
    """
    place = open_backend(store)
    source = opened_source(source, options.model)
    resolved = settle(place, options, restart=restart)
    with TemporaryDirectory() as directory:  # the samples that the store would have
        real = Store.open(place) if Store.exists(place) else None
        copy = Path(directory)
        scratch = copy_samples(real, copy) if real else Store.open_or_create(copy)
        known = Recognition(real, source.root, context) if real else None
        changes = add_source(
            scratch, source, resolved.modality.name, update=update, same_content=known
        )
        refuse_empty(scratch, source, resolved.modality)
        found = understood(scratch, source)
        samples = scratch.samples
        resolved = with_fitting_batch(resolved, samples, context)
        maker = throwaway_features(resolved)
        rate = measure_rate(resolved, samples, maker, context)
        banks = {name: samples_of(bank, samples) for name, bank in resolved.banks.items()}
        is_measured = resolved.unit_rows is None
        unit_rows = resolved.unit_rows or measured_unit(rate, resolved)
        resolved = replace(resolved, unit_rows=unit_rows)
        configs = array_configs(resolved)
        rows = options.rows_of(len(samples))
        existing = real.arrays(options.name) if real else {}
        done = {} if restart else existing
        growth = growth_of_listing(real, scratch, resolved, configs, done, rows)
        borrowed = borrowed_banks(resolved, configs)
        setups = real.setups if real else None
        growth += growth_of_setups(resolved, configs, setups, samples, borrowed)
        to_make = {
            feature: count
            for feature, count in banks.items()
            if options.bank_from is None and not (real and _is_frozen(real, configs, feature))
        }
        left = {}
        for feature in to_make:
            config = next(one for name, one in configs.items() if objective_name(name) == feature)
            kept = bank_blocks(real, config, feature) if real else None
            left[feature] = samples_left(resolved, samples, feature, kept)
    gaps = find_gaps(resolved.arrays, done, rows, unit_rows)
    digests = ItemDigests(place, options.name)
    noted = {} if restart else digests.sizes()
    growth += growth_of_units(
        gaps, resolved.arrays, done, unit_rows, resolved.shard_units, resolved.codec, noted
    )
    anew: set[int] = set()
    if real and not restart and (update or retry_failed):
        refuse_partial_redo(real, resolved)
        anew = {failure.row for failure in real.each_failure(options.name, rows)}
        anew |= {row for row in changes.changed_rows.tolist() if update and row < rows}
        anew.difference_update(*(range(gap.start, gap.stop) for gap in gaps))
    dropped = existing.values() if restart else ()
    forwards = maker.forwards(frozenset(options.features))
    for_banks = sum(n * bank_forwards(resolved, name) / forwards for name, n in left.items())
    said = chain.from_iterable(bank_notices(resolved, *bank) for bank in to_make.items())
    images = count_samples(gaps) + len(anew)
    work = images + (for_banks if gaps else 0)
    return Estimate(
        store=place.where,
        feature_set=options.name,
        samples=rows,
        images=images,
        units=len({gap.unit for gap in gaps} | {row // unit_rows for row in anew}),
        unit_rows=unit_rows,
        unit_is_measured=is_measured,
        batch_size=resolved.batch_size,
        bytes=growth,
        bytes_are_most=resolved.codec != "none",
        deleted_bytes=sum(
            bytes_below(folder) for array in dropped for folder in (array.folder, array.records)
        )
        + (bytes_below(digests.folder) if restart else 0),
        free_bytes=place.free_bytes(),
        seconds=(work / rate.high, work / rate.low),
        forwards_per_image=forwards,
        backbone=resolved.backbone.identity(),
        understood=found,
        remarks=(*found.warnings(), *source_remarks(source), *resolved.remarks, *said),
    )


def _is_frozen(store: Store, configs: Mapping[str, Config], objective: str) -> bool:
    """Whether a setup has an objective's bank, of whichever target layer."""
    own = [config for name, config in configs.items() if objective_name(name) == objective]
    return any(store.setups.has(fingerprint(config)) for config in own)


def refuse_empty(store: Store, source: Source, modality: Modality) -> None:
    """Raise UsageError if neither the store nor its source has a sample."""
    if len(store.samples) == 0:
        ignored = ignored_by(source)
        raise UsageError(
            f"no {modality.items} found",
            where=source.root,
            expected=f"at least one {modality.item}",
            found=said_ignored(ignored) or None,
            hint=empty_hint(source.root, ignored, modality),
        )


def with_fitting_batch(resolved: Resolved, samples: SampleTable, context: Context) -> Resolved:
    """Return settings whose batch is decided, by halving an open one until a GPU has held it.

    Raises:
        FullMemoryError: not even one sample fits.
    """
    while resolved.batch_is_open:
        try:
            _run_first_batch(resolved, samples, context)
            resolved = replace(resolved, batch_is_open=False)
        except FullMemoryError:
            if resolved.batch_size == 1:
                raise
            resolved = replace(resolved, batch_size=resolved.batch_size // 2)
            context.reporter.notice(
                f"the GPU's memory is full: now batches of {resolved.batch_size}"
            )
    return resolved


def _run_first_batch(resolved: Resolved, samples: SampleTable, context: Context) -> None:
    maker, features = throwaway_features(resolved), frozenset(resolved.options.features)
    plans = [BatchPlan(0, samples.rows(0, resolved.batch_size), features, last=False)]
    for batch in load_batches(plans, maker, resolved.workers):
        context.stop_if_asked()
        maker.compute(batch.drawn, features)


def with_unit_rows(resolved: Resolved, samples: SampleTable, context: Context) -> Resolved:
    """Return settings whose unit is decided, by measuring where neither user nor store has."""
    if resolved.unit_rows is not None:
        return resolved
    rate = measure_rate(resolved, samples, throwaway_features(resolved), context)
    return replace(resolved, unit_rows=measured_unit(rate, resolved))


def measure_rate(
    resolved: Resolved, samples: SampleTable, maker: FeatureMaker, context: Context
) -> Rate:
    """Time two small batches of the store's first samples, after a warm-up.

    A batch has about `batch_size` forwards, and a sample for each of a CPU's cores, so the
    measurement costs about as much as two batches of embeddings, whatever the objectives. One
    sample warms up a CPU; a GPU, and what is to be compiled, need a batch of the size that
    follows. A GPU may be faster than its items come: then the batches that were loaded during the
    warm-up say nothing, and the two after them are timed.
    """
    features, device = frozenset(resolved.options.features), resolved.device.type
    on_cpu = device == "cpu"
    tokens = prod(resolved.backbone.token_shape)  # of samples whose lengths differ, the longest's
    forwards = min(resolved.batch_size, default_batch_size(resolved.device, tokens))
    forwards //= maker.forwards(features)
    count = max(1, min(resolved.batch_size, torch.get_num_threads()) if on_cpu else 1, forwards)
    warmup = 1 if on_cpu and not resolved.compiled else min(len(samples), count)
    probes = PROBES if on_cpu else MOST_LOADED + PROBES
    total = min(len(samples), warmup + probes * count)

    def plans() -> Iterator[BatchPlan]:
        starts = [0, *range(warmup, max(warmup + 1, total), count)]
        for start, end in zip(starts, [*starts[1:], total], strict=True):
            first = min(start, total - 1)  # a single sample is timed twice
            rows = samples.rows(first, max(end, first + 1))
            yield BatchPlan(0, rows, features, last=False)

    rates = []
    began = time.perf_counter()
    in_processes = decode_elsewhere(
        resolved.options.decode_in, device, len(samples), maker.drawer, samples
    )
    for batch in load_batches(plans(), maker, resolved.workers, in_processes=in_processes):
        context.stop_if_asked()
        maker.compute(batch.drawn, features)
        now = time.perf_counter()
        rates.append(len(batch.plan.rows) / (now - began))
        began = now
    measured = rates[1:][-PROBES:] or rates
    return Rate(min(measured), max(measured))


def measured_unit(rate: Rate, resolved: Resolved) -> int:
    """Return the rows of a unit that the rate suggests, in all chunks of its file."""
    return choose_unit_rows(rate, resolved.arrays) * resolved.shard_units


def choose_unit_rows(rate: Rate, specs: list[Feature]) -> int:
    """Return the largest power of two that keeps a unit short and a patch chunk small."""
    rows = min(rate.high * UNIT_SECONDS, LARGEST_UNIT)
    rows = min([rows, *(PATCH_CHUNK_BYTES / s.row_bytes for s in specs if s.kind == "grid")])
    return power_of_two_within(rows)
