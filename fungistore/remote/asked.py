"""What one thread asks a server for while it opens something: once each, and ahead of time.

Opening takes many small objects one after the other, some of them several times, and each costs a
round trip. Within `once` an answer is kept until the end, so that everything there is seen as it
was at one moment, and what is known to be needed next is begun before it is asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

THREADS = 32
Answer = TypeVar("Answer")
Question = tuple[str, str]  # the kind, and the key


class Asked(threading.local):
    """The answers that the present thread keeps; other threads ask for themselves."""

    def __init__(self) -> None:
        self._answers: dict[Question, Future[Any]] | None = None
        self._pool: ThreadPoolExecutor | None = None

    @contextmanager
    def once(self) -> Iterator[None]:
        """Keep answers until the end; within another one, until the end of that."""
        if self._answers is not None:
            yield
            return
        self._answers = {}
        try:
            yield
        finally:
            self._answers = None
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=True)
                self._pool = None

    def begin(self, kind: str, key: str, ask: Callable[[str], Any]) -> None:
        """Ask in another thread, if the answer is going to be kept."""
        if self._answers is None or (kind, key) in self._answers:
            return
        self._pool = self._pool or ThreadPoolExecutor(THREADS, "fungi-ask")
        self._answers[kind, key] = self._pool.submit(ask, key)

    def get(self, kind: str, key: str, ask: Callable[[str], Answer]) -> Answer:
        """Return the answer, which may be an error; ask only where there is none yet."""
        if self._answers is None:
            return ask(key)
        future = self._answers.get((kind, key))
        if future is None:
            future = self._answers[kind, key] = Future()
            try:
                future.set_result(ask(key))
            except OSError as error:
                future.set_exception(error)
        found: Answer = future.result()
        return found

    def knows(self, kind: str, key: str) -> bool:
        """Whether a question was asked."""
        return self._answers is not None and (kind, key) in self._answers

    def forget(self) -> None:
        """Ask anew from here on, since this process changes something."""
        if self._answers:
            self._answers.clear()
