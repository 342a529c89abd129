"""Where a plan breaks, or gets slow or dear; and the hours of stages that come after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

from fungistore.planning.content import Content
from fungistore.planning.measured import (
    KNN_MINUTES,
    MILLION_DIM,
    MILLION_ROWS,
    MILLION_TESTS,
    PCA_MINUTES,
)
from fungistore.planning.options import PlanOptions
from fungistore.planning.result import LaterStage, Limit, MemoryUse, PlannedIndex, Rate
from fungistore.planning.simulate import Simulation
from fungistore.planning.storage import Storage
from fungistore.quantities import counted, duration, size

MANY_FILES = 1_000_000  # that a shared file system's metadata server holds, and lists, with pain
LONG_HOURS = 24.0  # of a later stage on two cores
FEW_UNITS = 8  # for each worker: with fewer, some have nothing to do at the end
RISKY = 0.1  # of a machine's life: units as long as that are lost too often
GB = 1_000_000_000
SCALED = "docs/scale.md, two cores"


@dataclass(frozen=True)
class Planned:
    """What limits are looked for in: the parts of a plan that are done."""

    options: PlanOptions
    content: Content
    images: int
    units: int
    unit_rows: int
    unit_seconds: float
    rate: Rate
    reads: float | None
    simulation: Simulation
    storage: Storage
    memory: Sequence[MemoryUse]
    indexes: Sequence[PlannedIndex]
    stages: Sequence[LaterStage]

    @property
    def workers(self) -> int:
        """Of all machines."""
        return self.options.nodes * self.options.gpus_per_node


def later_stages(content: Content, images: int) -> list[LaterStage]:
    """Return the hours of a PCA and of exact neighbours, from a million rows on two cores.

    A PCA multiplies each row with itself, so it takes rows times width squared; neighbours take
    test rows times all rows times width.
    """
    dim = content.vector_dim
    if not dim:
        return []
    rows, width = images / MILLION_ROWS, dim / MILLION_DIM
    pca = rows * width**2 * PCA_MINUTES / 60
    knn = rows * width * KNN_MINUTES / 60
    every = knn * images / MILLION_TESTS
    return [
        LaterStage("fungi pca", pca, f"rows x width^2, {PCA_MINUTES:g} min at 1e6 x 768: {SCALED}"),
        LaterStage(
            f"fungi eval knn of {MILLION_TESTS:,} test rows",
            knn,
            f"tests x rows x width, {KNN_MINUTES:g} min at 1e6 x 768: {SCALED}",
        ),
        LaterStage("exact neighbours of every row", every, f"the same: {SCALED}"),
    ]


def limits(plan: Planned) -> Iterator[Limit]:
    """Yield where it breaks, the worst of each kind once."""
    yield from _of_time(plan)
    yield from _of_disk(plan)
    yield from _of_memory(plan)
    for stage in plan.stages:
        if stage.hours > LONG_HOURS:
            is_knn = "neighbours" in stage.what or "knn" in stage.what
            yield Limit(
                f"{stage.what} takes {stage.hours:,.0f} hours on two cores",
                f"{plan.images:,} rows of {plan.content.vector_dim}",
                "an index, fungi search" if is_knn else "--features fewer, or fit on --fit-split",
            )


def _of_time(plan: Planned) -> Iterator[Limit]:
    options, simulation = plan.options, plan.simulation
    if simulation.unfinished:
        yield Limit(
            "it never ends: machines go before their units are done",
            f"{simulation.unfinished} of {counted(simulation.runs, 'simulated run')} had no end",
            "a smaller --unit-rows, or --load-seconds",
        )
    lives = [one for one in (options.mtbf, options.preempted_every) if one is not None]
    if lives and plan.unit_seconds + options.load_seconds > RISKY * min(lives) * 3600:
        yield Limit(
            "much work is lost whenever a machine goes",
            f"{duration(plan.unit_seconds + options.load_seconds)} to load and to do a unit, "
            f"machines live {min(lives):g} hours",
            "a smaller --unit-rows",
        )
    if plan.reads is not None and plan.reads < plan.rate.high * options.gpus_per_node:
        asked = plan.rate.high * options.gpus_per_node
        yield Limit(
            "reading and decoding hold the GPUs up",
            f"{plan.reads:,.0f} images/s of a machine, of {asked:,.0f} that its workers would take",
            "more cores, smaller images, or faster storage of the source",
        )
    if plan.units < FEW_UNITS * plan.workers:
        yield Limit(
            "few units for the workers: some have nothing to do at the end",
            f"{counted(plan.units, 'unit')}, {counted(plan.workers, 'worker')}",
            "a smaller --unit-rows",
        )
    longest = max(plan.unit_seconds, options.restart_minutes * 60)
    is_dynamic = options.mtbf is not None and options.placement == "dynamic"
    if is_dynamic and options.lease_seconds > longest:
        yield Limit(
            "units of failed machines wait for their leases",
            f"--lease-seconds {options.lease_seconds:g}, a unit takes "
            f"{duration(plan.unit_seconds)}",
            "a shorter lease, renewed while a worker lives",
        )


def _of_disk(plan: Planned) -> Iterator[Limit]:
    options, storage = plan.options, plan.storage
    if storage.files > MANY_FILES:
        chunks = storage.files - storage.record_files
        shards = 2 ** ceil(storage.files * options.shard_units / MANY_FILES).bit_length()
        hint = f"a larger --unit-rows, or --shard-units {shards}"
        yield Limit(
            "many files for a shared file system",
            f"{chunks:,} of chunks, {storage.record_files:,} records",
            hint,
        )
    if options.node_disk is not None and storage.bytes > options.node_disk * GB:
        yield Limit(
            "the store is larger than the disk",
            f"{size(storage.bytes)} of {size(options.node_disk * GB)}",
            "an object store, fewer --features, --pool, or --codec",
        )


def _of_memory(plan: Planned) -> Iterator[Limit]:
    if plan.options.node_memory is None:
        return
    most = plan.options.node_memory * GB
    own = sum(use.bytes for use in plan.memory if use.where == "machine")
    if own > most:
        yield Limit(
            "a machine's memory does not hold its units and batches",
            f"{size(own)} of {size(most)}",
            "a smaller --unit-rows or --shard-units",
        )
    for use in plan.memory:
        if use.where == "a later stage" and use.bytes > most:
            yield Limit(
                f"{use.what} does not fit",
                f"{size(use.bytes)} of {size(most)}",
                "fewer --features, or a smaller --projection-dim",
            )
    for index in plan.indexes:
        if index.bytes > most:
            yield Limit(
                f"the index of {index.of} does not fit",
                f"{size(index.bytes)} of {size(most)}",
                "a PCA, or a factory of smaller codes",
            )
