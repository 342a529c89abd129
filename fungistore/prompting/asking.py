"""Many requests at once, each asked again as long as that may help."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from time import monotonic

from fungistore.errors import FungiError
from fungistore.fingerprint import Config
from fungistore.machine.context import Context, stopped
from fungistore.prompting.endpoint import Answer, Endpoint, PassingError
from fungistore.randomness import Stream

POLL_SECONDS = 0.1
LONGEST_WAIT = 900.0  # seconds that an endpoint may ask to wait
GIVEN_UP = "the same command goes on where this one stopped: answers that came are kept"


@dataclass(frozen=True)
class BackOff:
    """How long to wait before a request is repeated: twice as long each time, give or take a half.

    Attributes:
        attempts: requests in all.
        first, most: seconds.
        seed: of the jitter, so that requests that failed at once do not come back at once.
    """

    attempts: int = 8
    first: float = 1.0
    most: float = 60.0
    seed: int = 0

    def seconds(self, key: str, attempt: int) -> float:
        """Return how long to wait after a request's attempt, counted from 0."""
        jitter = float(Stream(self.seed, "back-off", key, str(attempt)).uniform(1)[0])
        return min(self.most, self.first * 2**attempt) * (0.5 + jitter)


class Asking:
    """Asks an endpoint; answers come in the order in which they are there.

    Args:
        endpoint: that is asked.
        concurrency: requests at once.
        back_off: between attempts.
        context: its reporter is told what goes wrong, its stop asked all the time.
    """

    def __init__(
        self, endpoint: Endpoint, concurrency: int, back_off: BackOff, context: Context
    ) -> None:
        self._endpoint, self._concurrency = endpoint, concurrency
        self._back_off, self._context = back_off, context
        self._halt = threading.Event()
        self._lock = threading.Lock()
        self._not_before = 0.0  # of all requests, where the endpoint has asked for a pause
        self._troubles: dict[str, None] = {}  # each kind of them is said once
        self._said = 0

    def answers(self, requests: Iterator[tuple[str, Config]]) -> Iterator[tuple[str, Answer]]:
        """Yield the answer to each request, by its key.

        Where one fails for good, or a stop is asked for, those under way are still waited for.

        Raises:
            FungiError: one has failed.
            StoppedError: the context asked for it.
        """
        waiting: dict[Future[Answer | None], str] = {}
        failed: Exception | None = None
        with ThreadPoolExecutor(self._concurrency, "asking") as pool:
            try:
                while True:
                    while len(waiting) < self._concurrency and not self._halt.is_set():
                        try:
                            request = next(requests, None)
                        except Exception as error:  # what is under way is paid for all the same
                            failed, request = error, None
                            self._halt.set()
                        if request is None:
                            break
                        waiting[pool.submit(self._ask, *request)] = request[0]
                    if not waiting:
                        break
                    done, _ = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
                    for future in done:
                        key = waiting.pop(future)
                        try:
                            answer = future.result()
                        except FungiError as error:
                            failed = failed or error
                            self._halt.set()
                            continue
                        if answer is not None:
                            yield key, answer
                    self._say()
                    if self._context.stop():
                        self._halt.set()
            finally:
                self._halt.set()
        if failed is not None:
            raise failed
        if self._context.stop():
            raise stopped()

    def _ask(self, key: str, body: Config) -> Answer | None:
        """Return an answer, None where the asking was halted."""
        for attempt in range(self._back_off.attempts):
            if self._halt.wait(max(0.0, self._not_before - monotonic())):
                return None
            try:
                return self._endpoint.ask(body)
            except PassingError as error:
                what, pause = str(error), error.wait
            self._note(what)
            if attempt + 1 == self._back_off.attempts:
                break
            if pause is not None and pause > LONGEST_WAIT:
                raise FungiError(
                    f"the endpoint asks to wait for {pause:.0f} s",
                    where=self._endpoint.url,
                    found=what,
                    hint=f"wait; {GIVEN_UP}",
                )
            if pause is not None:
                with self._lock:
                    self._not_before = max(self._not_before, monotonic() + pause)
            if self._halt.wait(self._back_off.seconds(key, attempt)):
                return None
        raise FungiError(
            f"the endpoint has failed {self._back_off.attempts} times in a row",
            where=self._endpoint.url,
            found=what,
            hint=f"see whether it runs, and whether --timeout is enough; {GIVEN_UP}",
        )

    def _note(self, what: str) -> None:
        with self._lock:
            self._troubles.setdefault(what)

    def _say(self) -> None:
        """Tell what went wrong since; by the thread that may speak."""
        with self._lock:
            new = list(self._troubles)[self._said :]
            self._said += len(new)
        for what in new:
            self._context.reporter.notice(f"{what}; asked again")
