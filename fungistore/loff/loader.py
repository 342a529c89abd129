"""Batches of a store's rows for training: in exact order, read ahead by threads.

Patch tensors (LOFF-TA, step 2) are read where they lie: single rows of uncompressed chunks, which
are memory-mapped, and whole units of compressed ones. Where all rows fit, they are loaded once into
memory or onto the GPU.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fungistore.loff.cache import choose_cache
from fungistore.loff.options import CacheChoice
from fungistore.machine.context import QUIET, Context
from fungistore.machine.resources import reading_threads
from fungistore.machine.transfer import send
from fungistore.quantities import counted
from fungistore.store.fetched_rows import plain_rows
from fungistore.store.gather import (
    BatchBuffers,
    DecodedChunks,
    RowReader,
    RowsInMemory,
    gather,
    require_committed,
)
from fungistore.store.samples import Rows
from fungistore.store.units import UnitArray
from fungistore.training.order import Order

Remainder = Literal["keep", "drop"]
BATCHES_AHEAD = 1  # while one is used; more only push each other out of the CPU's cache
PARTS = 2  # of a batch, each read by one thread
WINDOW_BYTES = 1 << 30  # of decoded units of compressed arrays
LOAD_BYTES = 32_000_000  # that are loaded at once into memory or onto a GPU


@dataclass(frozen=True)
class Batch:
    """Some rows of an epoch.

    Attributes:
        rows: row numbers [b], int64.
        values: of the rows [b, ...] in the array's dtype, on the loader's device. They are the
            caller's: nothing writes into them later.
        embeddings: of the same rows [b, e], where they were asked for.
    """

    rows: Rows
    values: Tensor
    embeddings: Tensor | None = None


class PatchLoader:
    """Batches of patch tensors [b, h, w, d], or of any other array of a store.

    The batches of an epoch depend on the order, the epoch's number, the batch size, and, for
    compressed arrays, `window_bytes`; not on threads, device, or cache. So (epoch, step) is the
    state to keep: `epoch(n, start_step=s)` goes on after s batches, exactly.

    Args:
        array: the array; it is only read.
        order: which rows, and how they are drawn. Rows that must not be seen (failed inputs are
            NaN) are the caller's to leave out.
        batch_size: rows of a batch.
        remainder: whether an epoch's last, shorter batch is kept or dropped.
        device: that batches are wanted on. For CUDA they are read into pinned memory and copied in
            the current stream, without waiting for it.
        cache: where to keep the rows; "auto" takes the GPU, then memory, if they take at most half
            of what is free there, else reads every batch from disk.
        embeddings: another array of the same rows, read beside the first.
        threads: that read; default: see `reading_threads`.
        window_bytes: of decoded units that a compressed array may have in memory. Half of them are
            mixed with each other by shuffling, and at least one unit.
        context: its reporter is told what happens, its stop is asked during loading.

    Raises:
        StoreError: a row's unit is not committed, or a chunk is damaged.
        StoppedError: `stop` said so while rows were loaded.
        UsageError: the cache that was asked for has no room.
        ValueError: the batch size or number of threads is not positive.
    """

    def __init__(
        self,
        array: UnitArray,
        order: Order,
        batch_size: int,
        *,
        remainder: Remainder = "keep",
        device: torch.device | None = None,
        cache: CacheChoice = "auto",
        embeddings: UnitArray | None = None,
        threads: int | None = None,
        window_bytes: int = WINDOW_BYTES,
        context: Context = QUIET,
    ) -> None:
        self.threads = reading_threads() if threads is None else threads
        if batch_size < 1 or self.threads < 1:
            raise ValueError(
                f"batches of {counted(batch_size, 'row')} by {counted(self.threads, 'thread')}"
            )
        self.array = array
        self.order = order
        self.batch_size = batch_size
        self.remainder = remainder
        self.device = device or torch.device("cpu")
        self.window = max(1, window_bytes // max(1, 2 * array.chunk_rows * array.feature.row_bytes))
        self._shape = tuple(int(size) for size in array.array.shape[1:])
        dtype = np.dtype(array.array.dtype)
        self._dtype = torch.from_numpy(np.empty(0, dtype)).dtype
        self._buffers = BatchBuffers((batch_size, *self._shape), dtype, BATCHES_AHEAD + 2)
        wanted = np.unique(order.rows)
        require_committed(array, wanted)
        self.cache = choose_cache(
            cache, len(wanted) * array.feature.row_bytes, self.device, context
        )
        self._mapped = plain_rows(array, PARTS, wanted) if array.plain else None
        self._memory: RowsInMemory | None = None
        self._loaded: tuple[Rows, Tensor] | None = None
        if self.cache == "ram":
            whole = self._load(wanted, torch.device("cpu"), context)
            self._memory = RowsInMemory(wanted, whole.numpy(), PARTS)
        elif self.cache == "gpu":
            self._loaded = wanted, self._load(wanted, self.device, context)
        self._beside: PatchLoader | None = None
        if embeddings is not None:
            self._beside = PatchLoader(
                embeddings,
                _Following(self),
                batch_size,
                remainder=remainder,
                device=device,
                cache=self.cache,
                threads=1,
                context=context,
            )

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        full, rest = divmod(len(self.order.rows), self.batch_size)
        return full + bool(rest and self.remainder == "keep")

    def epoch(self, epoch: int, start_step: int = 0) -> Generator[Batch]:
        """Yield the batches of an epoch, from `start_step` on.

        Raises:
            StoreError: a chunk is damaged, or has changed its size.
            ValueError: there is no such step.
        """
        batches = self._batches(epoch, start_step)
        if self._beside is None:
            yield from batches
            return
        with closing(batches), closing(self._beside.epoch(epoch, start_step)) as others:
            for batch in batches:
                yield replace(batch, embeddings=next(others).values)
                del batch  # or its buffer could not be used again

    def _batches(self, epoch: int, start_step: int) -> Generator[Batch]:
        if not 0 <= start_step <= self.steps:
            raise ValueError(f"step {start_step} of an epoch of {self.steps}")
        drawn = self.draw(epoch)[start_step * self.batch_size : self.steps * self.batch_size]
        batches = np.split(drawn, range(self.batch_size, len(drawn), self.batch_size))
        if not len(drawn):
            return
        if self._loaded is not None:
            yield from self._select(batches, *self._loaded)
            return
        reader = self._memory or self._reader(drawn)
        read = gather(reader, batches, self._take, self.threads, BATCHES_AHEAD)
        with closing(read):  # its threads end with this iterator, whoever else may still hold it
            for rows, values in read:
                yield Batch(rows, values.to(self.device, non_blocking=self.device.type == "cuda"))
                del values  # a buffer is used again once nobody holds it

    def draw(self, epoch: int) -> Rows:
        """Return the rows of an epoch in the order of use."""
        if self._mapped:
            return self.order.draw(epoch)
        # in windows even if the rows are cached, so that another cache gives the same batches
        return self.order.draw_in_windows(epoch, self.array.chunk_rows, self.window)

    def _reader(self, upcoming: Rows) -> RowReader:
        return self._mapped or DecodedChunks(self.array, upcoming, self.window)

    def _take(self, count: int) -> Tensor:
        if self.device.type == "cuda":  # torch reuses pinned memory, once copies from it are done
            return torch.empty((count, *self._shape), dtype=self._dtype, pin_memory=True)
        return self._buffers.take(count)

    def _select(self, batches: list[Rows], known: Rows, values: Tensor) -> Iterator[Batch]:
        for rows in batches:
            places = send(torch.from_numpy(np.searchsorted(known, rows)), self.device)
            yield Batch(rows, values.index_select(0, places))

    def _load(self, rows: Rows, device: torch.device, context: Context) -> Tensor:
        whole = torch.empty((len(rows), *self._shape), dtype=self._dtype, device=device)
        step = max(1, LOAD_BYTES // max(1, self.array.feature.row_bytes))
        blocks = np.split(rows, range(step, len(rows), step)) if len(rows) else []
        taken = filled = 0

        def take(count: int) -> Tensor:
            nonlocal taken
            if device.type != "cpu":
                return self._take(count)
            taken += count
            return whole[taken - count : taken]  # read in place

        context.reporter.begin("loading features", len(rows))
        try:
            reader = self._reader(rows)
            for part, values in gather(reader, blocks, take, self.threads, BATCHES_AHEAD):
                context.stop_if_asked()
                if device.type != "cpu":
                    whole[filled : filled + len(part)].copy_(values)
                filled += len(part)
                context.reporter.advance(len(part))
        finally:
            context.reporter.end()
        return whole


class _Following:
    """The order that another loader's rows come in, whatever the layout of its array."""

    def __init__(self, leader: PatchLoader) -> None:
        self.rows = leader.order.rows
        self._leader = leader

    def draw(self, epoch: int) -> Rows:
        """Return the leader's rows."""
        return self._leader.draw(epoch)

    def draw_in_windows(self, epoch: int, unit_rows: int, window: int) -> Rows:
        """Return the leader's rows, in windows of the leader's array if it has them."""
        return self._leader.draw(epoch)
