"""Reads and draws images in threads, a bounded number of batches ahead, in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fungistore.errors import ImageError
from fungistore.extraction.features import Drawn, DrawnBatch
from fungistore.sources import read_image
from fungistore.store import Failure
from fungistore.views import Image

BATCHES_AHEAD = 2
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


Draw = Callable[[Image, str, frozenset[str]], Drawn]


def load_batches(works: Iterable[Work], draw: Draw, workers: int) -> Iterator[LoadedBatch]:
    """Yield batches in the order of `works`, read ahead by `workers` threads.

    Threads serve: Pillow decodes and resizes outside Python's lock, and nothing is copied. What a
    sample becomes depends on its own bytes and id alone, so the number of threads changes nothing.
    """

    def load(row: dict[str, Any], features: frozenset[str]) -> tuple[Drawn, Failure | None]:
        try:
            return draw(read_image(row["root"], row["uri"]), row["id"], features), None
        except ImageError as error:
            failure = Failure(row["row"], row["uri"], type(error).__name__, error.what)
            return draw(BLANK, row["id"], features), failure

    ahead: deque[tuple[Work, list[Future[tuple[Drawn, Failure | None]]]]] = deque()
    stream = iter(works)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="fungi-load")
    try:
        while True:
            while len(ahead) <= BATCHES_AHEAD and (work := next(stream, None)) is not None:
                futures = [pool.submit(load, row, work.features) for row in work.rows]
                ahead.append((work, futures))
            if not ahead:
                return
            work, futures = ahead.popleft()
            yield _stack(work, [future.result() for future in futures])
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def default_workers() -> int:
    """Return a number of threads that leaves most of the machine to the model."""
    return max(1, min(16, (os.cpu_count() or 1) // 2))


def _stack(work: Work, loaded: list[tuple[Drawn, Failure | None]]) -> LoadedBatch:
    drawn: DrawnBatch = {
        name: tuple(torch.from_numpy(np.stack(arrays)) for arrays in zip(*parts, strict=True))
        for name, parts in ((key, [one[key] for one, _ in loaded]) for key in loaded[0][0])
    }
    return LoadedBatch(work, drawn, [failure for _, failure in loaded if failure])
