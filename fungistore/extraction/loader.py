"""Reads and draws images in threads, a bounded number of batches ahead, in order."""

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

from fungistore.errors import ImageError
from fungistore.extraction.features import Drawn, DrawnBatch, FeatureMaker
from fungistore.resources import allowed_cores
from fungistore.sources import read_image
from fungistore.stopwatch import UNWATCHED, Stopwatch
from fungistore.store import Failure
from fungistore.views import Image

BATCHES_AHEAD = 2
MOST_WORKERS = 32  # Python's lock lets few more threads be of use
BLANK: Image = np.zeros((8, 8, 3), np.uint8)  # stands in for an unreadable image, then is discarded


@dataclass(frozen=True)
class Work:
    """One batch to be: rows of the sample table, all of one unit, and the features they need.

    `last` marks the unit's last batch.
    """

    unit: int
    rows: list[dict[str, Any]]
    features: frozenset[str]
    last: bool


@dataclass(frozen=True)
class LoadedBatch:
    """A batch whose images were read and drawn; `failures` names the blank ones."""

    work: Work
    drawn: DrawnBatch
    failures: list[Failure]


def load_batches(
    works: Iterable[Work],
    maker: FeatureMaker,
    workers: int,
    watch: Stopwatch = UNWATCHED,
) -> Iterator[LoadedBatch]:
    """Yield batches in the order of `works`, read ahead by `workers` threads.

    Threads serve: Pillow decodes and resizes outside Python's lock, and nothing is copied. What a
    sample becomes depends on its own bytes and id alone, so the number of threads changes nothing.
    One more thread puts a batch together, for a GPU in pinned memory.
    """

    def load(row: dict[str, Any], features: frozenset[str]) -> tuple[Drawn, Failure | None]:
        failure = None
        with watch.stage("decode"):
            try:
                image = read_image(row["root"], row["uri"])
            except ImageError as error:
                image = BLANK
                failure = Failure(row["row"], row["uri"], type(error).__name__, error.what)
        with watch.stage("draw"):
            return maker.draw(image, row["id"], features), failure

    def stack(work: Work, loads: list[Future[tuple[Drawn, Failure | None]]]) -> LoadedBatch:
        drawn, failures = zip(*(load.result() for load in loads), strict=True)
        batch = stack_drawn(drawn, pinned=maker.device.type == "cuda")
        return LoadedBatch(work, batch, list(filter(None, failures)))

    ahead: deque[Future[LoadedBatch]] = deque()
    stream = iter(works)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="fungi-load")
    stacker = ThreadPoolExecutor(1, thread_name_prefix="fungi-stack")
    try:
        while True:
            while len(ahead) <= BATCHES_AHEAD and (work := next(stream, None)) is not None:
                loads = [pool.submit(load, row, work.features) for row in work.rows]
                ahead.append(stacker.submit(stack, work, loads))
            if not ahead:
                return
            with watch.stage("wait"):
                batch = ahead.popleft().result()
            yield batch
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        stacker.shutdown(wait=False, cancel_futures=True)


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


def stack_drawn(images: Sequence[Drawn], *, pinned: bool = False) -> DrawnBatch:
    """Put drawn images together as one batch; in pinned memory a GPU copies while it computes."""
    batch: DrawnBatch = {}
    for name in images[0]:
        arrays = zip(*(drawn[name] for drawn in images), strict=True)
        stacked = map(stack_padded, arrays)
        batch[name] = tuple(tensor.pin_memory() if pinned else tensor for tensor in stacked)
    return batch
