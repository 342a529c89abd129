"""Batches of drawn items, a bounded number ahead of the model, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fungistore.extraction.decoders import open_decoders
from fungistore.extraction.drawing import DrawnItem, DrawnViews
from fungistore.extraction.features import BatchViews, DrawnGroup, FeatureMaker
from fungistore.extraction.plan import BatchPlan
from fungistore.machine.resources import allowed_cores
from fungistore.machine.stopwatch import UNWATCHED, Stopwatch
from fungistore.modalities.views import Drawn, DrawnBatch
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

    Raises:
        FungiError: a decoding process has ended.
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
    stream = iter(plans)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="fungi-load")
    stacker = ThreadPoolExecutor(1, thread_name_prefix="fungi-stack")
    try:
        while True:
            while len(ahead) < MOST_LOADED and (plan := next(stream, None)) is not None:
                starts = range(0, len(plan.rows), decoders.rows_at_once)
                parts = [plan.rows[start : start + decoders.rows_at_once] for start in starts]
                draws = [pool.submit(decoders.draw, part, plan.features) for part in parts]
                ahead.append(stacker.submit(stack, plan, draws))
            if not ahead:
                return
            with watch.stage("wait"):
                batch = ahead.popleft().result()
            yield batch
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        stacker.shutdown(wait=False, cancel_futures=True)
        decoders.close()


def default_workers(device: str, processes: int = 1) -> int:
    """Return how many threads should decode for a type of device, in each of several processes.

    All cores but one feed a CUDA device; beside a model on the CPU, half of them decode.
    """
    cores = allowed_cores() / processes
    return max(1, min(MOST_WORKERS, int(cores - 1 if device == "cuda" else cores / 2)))


def stack_padded(arrays: Sequence[NDArray[Any]]) -> Tensor:
    """Stack arrays; those of different shapes are padded with zeros at the end of each axis."""
    shape = np.max([array.shape for array in arrays], axis=0)
    if all(array.shape == tuple(shape) for array in arrays):
        return torch.from_numpy(np.stack(arrays))
    stacked = np.zeros((len(arrays), *shape), arrays[0].dtype)
    for place, array in zip(stacked, arrays, strict=True):
        place[tuple(map(slice, array.shape))] = array
    return torch.from_numpy(stacked)


def stack_drawn(
    items: Sequence[DrawnViews], *, by_shape: bool = False, pinned: bool = False
) -> BatchViews:
    """Put drawn items together as one batch.

    Args:
        items: in the order of the batch.
        by_shape: items whose arrays have other shapes are groups of their own, the largest first;
            else all are one group, padded to one shape.
        pinned: in memory from which a GPU copies while it computes.
    """
    batch: BatchViews = {}
    for name in items[0]:
        groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for place, drawn in enumerate(items):
            shape = tuple(array.shape for array in drawn[name]) if by_shape else ()
            groups.setdefault(shape, []).append(place)
        batch[name] = tuple(
            DrawnGroup(tuple(places), _stacked([items[one][name] for one in places], pinned=pinned))
            for _, places in sorted(groups.items(), reverse=True)
        )
    return batch


def _stacked(items: Sequence[Drawn], *, pinned: bool) -> DrawnBatch:
    stacked = map(stack_padded, zip(*items, strict=True))
    return tuple(tensor.pin_memory() if pinned else tensor for tensor in stacked)
