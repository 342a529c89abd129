"""Work that waits for something else than this machine, done ahead in threads, taken in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def in_order(jobs: Iterable[Callable[[], Result]], ahead: int) -> Iterator[Result]:
    """Yield what jobs return, in their order, while the next ones run in threads.

    Args:
        jobs: taken one by one, as late as can be.
        ahead: jobs that run, or wait to be taken, beside the one whose result is in use; 0: each
            is done when its result is asked for, without a thread.
    """
    if not ahead:
        for job in jobs:
            yield job()
        return
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(ahead, "fungi-ahead")
    try:
        for job in jobs:
            waiting.append(pool.submit(job))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
