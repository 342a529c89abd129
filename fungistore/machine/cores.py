"""A CPU's cores, each on work of its own, so that no result depends on how many there are.

torch's libraries divide a product, and with it the order of its sums, by the number of threads
that it may take. So a piece of work gets one thread, and more cores take more pieces.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from threading import RLock
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Cores:
    """The cores that work is spread over: torch's threads, or one where a GPU does it."""

    count: int = 1

    def map(self, work: Callable[[Piece], Made], pieces: Iterable[Piece]) -> Iterator[Made]:
        """Yield what `work` makes of each piece, in their order; raises what it raises."""
        return map(work, pieces) if self.count == 1 else _pool(self.count).map(work, pieces)


ONE_CORE = Cores()
_TURN = RLock()


@contextmanager
def one_thread_each(device: torch.device) -> Iterator[Cores]:
    """Give a CPU's cores, and one thread of torch to whatever runs on them or here meanwhile.

    Callers in several threads take turns: the number of threads that a new one gets is the whole
    process's, and each of them is given all cores.
    """
    if device.type != "cpu":
        yield ONE_CORE
        return
    with _TURN:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield Cores(threads)
        finally:
            torch.set_num_threads(threads)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return a pool that is kept: a thread's first product costs more than its later ones."""
    return ThreadPoolExecutor(threads, "fungi-core", torch.set_num_threads, (1,))


if hasattr(os, "register_at_fork"):  # a forked process has the pool, but none of its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
