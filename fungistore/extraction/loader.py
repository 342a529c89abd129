"""Batches of drawn items, a bounded number ahead of the model, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from fungistore.extraction.batches import BatchViews, stack_drawn
from fungistore.extraction.decoders import open_decoders
from fungistore.extraction.drawing import DrawnItem
from fungistore.extraction.features import FeatureMaker
from fungistore.extraction.fetcher import FetchedRows, Fetcher
from fungistore.extraction.plan import BatchPlan
from fungistore.machine.resources import allowed_cores
from fungistore.machine.stopwatch import UNWATCHED, Stopwatch
from fungistore.store.failures import Failure
from fungistore.store.item_digests import Digests

MOST_LOADED = 3  # batches that wait for the model, or are being loaded
MOST_WORKERS = 32  # so many processes keep their parent busy, at 0.1 ms an item


@dataclass(frozen=True)
class LoadedBatch:
    """A batch whose items were read and drawn.

    `failures` names the blank ones, and `digests` are those of all items' bytes.
    """

    plan: BatchPlan
    drawn: BatchViews
    failures: list[Failure]
    digests: Digests


def load_batches(
    plans: Iterable[BatchPlan],
    maker: FeatureMaker,
    workers: int,
    watch: Stopwatch = UNWATCHED,
    *,
    in_processes: bool = False,
) -> Iterator[LoadedBatch]:
    """Yield batches in the order of `plans`, read ahead by `workers` threads or processes.

    What a sample becomes depends on its own bytes and id alone, so neither their number nor their
    kind changes anything. One more thread puts a batch together, for a GPU in pinned memory.

    Items at URLs are fetched by many more threads, further ahead (`fetcher`).

    Raises:
        FungiError: a decoding process has ended.
        UnreachableError: the server of the items is.
    """
    decoders = open_decoders(maker.drawer, workers, in_processes=in_processes)

    def stack(plan: BatchPlan, draws: list[Future[list[DrawnItem]]]) -> LoadedBatch:
        items = [item for draw in draws for item in draw.result()]
        watch.add("decode", sum(item.decoding for item in items))
        watch.add("draw", sum(item.drawing for item in items))
        drawn = [item.drawn for item in items]
        is_pinned = maker.device.type == "cuda"
        batch = stack_drawn(drawn, by_shape=maker.by_shape, pinned=is_pinned)
        failures = [item.failure for item in items if item.failure]
        digests = np.array([item.digest for item in items], np.uint64)
        return LoadedBatch(plan, batch, failures, digests)

    ahead: deque[Future[LoadedBatch]] = deque()
    fetcher = Fetcher()
    stream = fetcher.ahead(plans)

    def draw(rows: FetchedRows, features: frozenset[str]) -> list[DrawnItem]:
        return decoders.draw(rows.there(), features)

    pool = ThreadPoolExecutor(workers, thread_name_prefix="fungi-load")
    stacker = ThreadPoolExecutor(1, thread_name_prefix="fungi-stack")
    try:
        while True:
            while len(ahead) < MOST_LOADED and (fetched := next(stream, None)) is not None:
                plan = fetched.plan
                parts = fetched.parts(decoders.rows_at_once)
                draws = [pool.submit(draw, part, plan.features) for part in parts]
                ahead.append(stacker.submit(stack, plan, draws))
            if not ahead:
                return
            with watch.stage("wait"):
                batch = ahead.popleft().result()
            yield batch
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        stacker.shutdown(wait=False, cancel_futures=True)
        fetcher.close()
        decoders.close()


def default_workers(device: str, processes: int = 1) -> int:
    """Return how many threads should decode for a type of device, in each of several processes.

    All cores but one feed a CUDA device; beside a model on the CPU, half of them decode.
    """
    cores = allowed_cores() / processes
    return max(1, min(MOST_WORKERS, int(cores - 1 if device == "cuda" else cores / 2)))
