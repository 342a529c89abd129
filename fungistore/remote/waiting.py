"""Requests in threads of their own: who waits for one hears ^C, and is told of silence.

A call of obstore's hears no signal before it returns, and a server that says nothing is given two
minutes. So no thread of ours makes one itself: it waits for another, which ends with the process
and is waited for by nobody else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from fungistore.errors import StoppedError

SILENT_SECONDS = 5.0  # after which who waits is told for whom
AGAIN_SECONDS = 60.0  # before that is said again of the same server
LOOKED_EACH = 0.5  # seconds, at whether the user wants to wait at all
IDLE_SECONDS = 10.0  # a thread without a request ends
LOGGER = "fungistore"

Answer = TypeVar("Answer")


class _Request:
    """A call that another thread makes."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._done = threading.Event()
        self._found: Any = None
        self._error: BaseException | None = None

    def make(self) -> None:
        try:
            self._found = self._call()
        except BaseException as error:  # it is the waiting thread's
            self._error = error
        self._done.set()

    def is_made(self, seconds: float) -> bool:
        return self._done.wait(seconds)

    def answer(self) -> Any:
        try:
            if self._error is not None:
                raise self._error
            return self._found
        finally:
            self._error = None  # whose traceback has this very frame


class _Threads:
    """Threads that make requests, as many as are under way; those that are idle wait for more."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[_Request] = SimpleQueue()
        self._idle = 0
        self._lock = threading.Lock()

    def give(self, request: _Request) -> None:
        with self._lock:
            is_taken = self._idle > 0
            if is_taken:
                self._idle -= 1
        self._waiting.put(request)
        if not is_taken:
            threading.Thread(target=self._work, name="fungi-request", daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                request = self._waiting.get(timeout=IDLE_SECONDS)
            except Empty:
                with self._lock:
                    if self._idle > 0:  # else a request is coming that counts on this thread
                        self._idle -= 1
                        return
                continue
            request.make()
            del request  # with what it has found
            with self._lock:
                self._idle += 1


class Waiting:
    """What this process waits for, and whether it wants to."""

    def __init__(self) -> None:
        self._threads = _Threads()
        self._lock = threading.Lock()
        self._answered: dict[str, float] = {}  # when a server did last
        self._told: dict[str, float] = {}
        self._limit: float | None = None  # seconds, once the user wants to end
        self._given_up: set[str] = set()

    def ask(self, server: str, call: Callable[[], Answer], patience: float = 0.0) -> Answer:
        """Return what a call of obstore's returns, or raise what it raises.

        Args:
            server: that is asked, for eyes.
            call: the request.
            patience: seconds that it may take more than others before its silence is told.

        Raises:
            StoppedError: `stop` was called, and nothing came.
        """
        request, began = _Request(call), time.monotonic()
        self._threads.give(request)
        while not request.is_made(LOOKED_EACH):
            now = time.monotonic()
            self._refuse(server, now - began - patience)
            if now - began - patience >= SILENT_SECONDS:
                self._tell(server, now)
        self._answered[server] = time.monotonic()
        return request.answer()

    def stop(self, seconds: float = SILENT_SECONDS) -> None:
        """Wait for nothing any more for longer than this; may be called in a signal handler."""
        self._limit = seconds

    def go_on(self) -> None:
        """Wait again, for another command."""
        self._limit = None
        self._given_up.clear()

    def _refuse(self, server: str, waited: float) -> None:
        """Give a server up if the user wants to end, and the next time at once."""
        limit = self._limit
        if limit is not None and (waited >= limit or server in self._given_up):
            self._given_up.add(server)
            raise StoppedError(f"stopped while waiting for {server}, which does not answer")

    def _tell(self, server: str, now: float) -> None:
        """Say whom is waited for, unless others hear of that server, or have said so."""
        with self._lock:
            if now - self._answered.get(server, -SILENT_SECONDS) < SILENT_SECONDS:
                return
            if now - self._told.get(server, -AGAIN_SECONDS) < AGAIN_SECONDS:
                return
            self._told[server] = now
        said = "waiting for %s: no answer for %.0f s; requests are repeated for some two minutes"
        logging.getLogger(LOGGER).warning(said, server, SILENT_SECONDS)


WAITING = Waiting()
