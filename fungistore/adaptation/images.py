"""Batches of training images, decoded and augmented some steps ahead of the model."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fungistore.adaptation.rows import AdaptRows, Reader
from fungistore.machine.context import Context
from fungistore.machine.transfer import send
from fungistore.modalities.views import ViewRecipe
from fungistore.randomness import Stream
from fungistore.store.samples import Rows
from fungistore.training.order import Order

MOST_LOADED = 3  # batches that wait for the model, or are being loaded


@dataclass(frozen=True)
class ImageBatch:
    """Some images of an epoch.

    Attributes:
        rows: their numbers [b].
        pixels: float32 [b, 3, s, s], normalised, on the device.
    """

    rows: Rows
    pixels: Tensor


@dataclass(frozen=True)
class ImageLoader:
    """The images of an order, each as one view.

    What an image becomes depends on (seed, epoch, its id, how often it came before) alone: on no
    thread, and on nothing that ran before.

    Attributes:
        data: the rows.
        order: of an epoch.
        view: what an image becomes.
        batch_size: images of a batch.
        seed: of the views.
        device: where they go to.
        reader: of the images.
        context: its stop is asked between batches.
    """

    data: AdaptRows
    order: Order
    view: ViewRecipe
    batch_size: int
    seed: int
    device: torch.device
    reader: Reader
    context: Context

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.order.rows) // self.batch_size)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[ImageBatch]:
        """Yield the batches of an epoch, from a step on.

        Raises:
            MismatchError: an image is another one than when the training began.
        """
        rows = self.order.draw(epoch)
        repeats = repeats_of(rows)
        ahead: deque[tuple[Rows, list[Future[NDArray[np.uint8]]]]] = deque()
        starts = iter(range(start_step * self.batch_size, len(rows), self.batch_size))
        pool = ThreadPoolExecutor(self.reader.workers, thread_name_prefix="fungi-images")
        try:
            while True:
                while len(ahead) < MOST_LOADED and (start := next(starts, None)) is not None:
                    here = slice(start, start + self.batch_size)
                    pairs = zip(rows[here].tolist(), repeats[here].tolist(), strict=True)
                    drawn = [pool.submit(self._draw, epoch, row, n) for row, n in pairs]
                    ahead.append((rows[here], drawn))
                if not ahead:
                    return
                numbers, futures = ahead.popleft()
                pixels = np.stack([future.result() for future in futures])
                yield ImageBatch(numbers, self._rendered(pixels))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _draw(self, epoch: int, row: int, repeat: int) -> NDArray[np.uint8]:
        sample = self.data.samples[row]
        digest = int(self.data.items.of(np.array([row]))[0])
        item = self.reader.read(sample, digest)
        random = Stream(self.seed, "augment", str(epoch), str(repeat), sample["id"])
        (pixels,) = self.view.draw(item, random)
        return pixels

    def _rendered(self, pixels: NDArray[np.uint8]) -> Tensor:
        sent = send(torch.from_numpy(pixels), self.device)
        (rendered,) = self.view.render((sent,), 0, slice(None))
        return rendered[:, 0]


def repeats_of(rows: Rows) -> Rows:
    """Return how often each row of an epoch came before [n]; zeros where it comes once."""
    order = np.argsort(rows, kind="stable")
    ranked = rows[order]
    first = np.searchsorted(ranked, ranked, side="left")
    repeats = np.empty(len(rows), np.int64)
    repeats[order] = np.arange(len(rows)) - first
    return repeats
