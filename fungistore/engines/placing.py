"""Which slice goes to whoever is free next, and what becomes of one whose worker died.

Nothing here knows of a cluster: times, deaths and results are told by whoever has one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from fungistore.errors import FungiError
from fungistore.fingerprint import Config
from fungistore.store.locks import BusyError, Slice

PER_WORKER = 16  # slices: the last ones leave workers idle for a sixteenth of a share at most
MOST_SLICES = 4096  # each costs the driver its result, and a worker a look at the store
DEATHS = 3  # of workers on machines that live on, without a unit in between: the slice kills them
LOSSES = 12  # the same, whatever became of the machine
SETTLE_SECONDS = 2.0  # a death is known before the death of its machine is
BUSY_SECONDS = (1.0, 15.0)  # the first wait for somebody else's claim, and the longest
PATIENCE_SECONDS = 200.0  # three leases
SAME_ERRORS = 3  # in a row, of different slices: it is not the slice


def slices_for(workers: int, units: int | None) -> int:
    """Return how many slices to make for so many workers."""
    wanted = min(MOST_SLICES, max(1, workers) * PER_WORKER)
    return wanted if units is None else max(1, min(wanted, units))


@dataclass
class _Attempts:
    """What has happened to one slice since it last went forward."""

    machines: list[str] = field(default_factory=list)  # of its dead workers
    cause: str = ""
    done: int = 0  # items that it began with
    busy_since: float | None = None
    busy: FungiError | None = None
    wait: float = BUSY_SECONDS[0]


class Placing:
    """The slices of one run.

    Args:
        count: how many there are.
        now: the time, of a clock that never goes back; in all calls.

    Attributes:
        results: what slices gave, by number.
        errors: what the others ended with.
        is_ending: no slice is given out any more.
    """

    def __init__(self, count: int, now: float) -> None:
        self.count = count
        self.results: dict[int, Config] = {}
        self.errors: dict[int, FungiError] = {}
        self.is_ending = False
        self._waiting: dict[int, float] = dict.fromkeys(range(count), now)  # since when it may go
        self._attempts: dict[int, _Attempts] = {}

    @property
    def left(self) -> int:
        """How many wait for a worker."""
        return 0 if self.is_ending else len(self._waiting)

    def next(self, now: float, alive: Collection[str]) -> Slice | None:
        """Return the slice to run next, None where none may go now.

        Args:
            now: the time.
            alive: the machines there are.
        """
        if self.is_ending:
            return None
        for index in [index for index, since in self._waiting.items() if since <= now]:
            del self._waiting[index]
            if (error := self._killer(index, alive)) is None:
                return Slice(index, self.count)
            self.errors[index] = error
        return None

    def began(self, index: int, done: int) -> None:
        """Take note of the items of a slice that are done when a worker begins with it."""
        attempts = self._attempts.get(index)
        if attempts is None:
            self._attempts[index] = _Attempts(done=done)
        elif done > attempts.done:
            self._attempts[index] = _Attempts(done=done)  # it goes forward: nobody's fault

    def finished(self, index: int, result: Config) -> None:
        """Take a result."""
        self.results[index] = result
        self._attempts.pop(index, None)
        units = result.get("units_total", self.count)
        for empty in [other for other in self._waiting if other >= units > 0]:
            del self._waiting[empty]

    def died(self, index: int, machine: str, cause: str, now: float) -> None:
        """Take note of the death of a slice's worker; the slice waits for another."""
        attempts = self._attempts.setdefault(index, _Attempts())
        attempts.machines.append(machine)
        attempts.cause = cause
        self._waiting[index] = now + SETTLE_SECONDS

    def failed(self, index: int, error: FungiError, now: float) -> float:
        """Take an error; returns the seconds until the slice goes again, 0 where it does not."""
        if isinstance(error, BusyError):
            attempts = self._attempts.setdefault(index, _Attempts())
            attempts.busy_since = now if attempts.busy_since is None else attempts.busy_since
            if now - attempts.busy_since < PATIENCE_SECONDS:
                wait, attempts.wait = attempts.wait, min(attempts.wait * 2, BUSY_SECONDS[1])
                self._waiting[index] = now + wait
                return wait
        self.errors[index] = error
        same = [one for one in self.errors.values() if one.what == error.what]
        if error.exit_code != FungiError.exit_code or len(same) >= SAME_ERRORS:
            self.is_ending = True  # the next ones would end the same way
        return 0

    def _killer(self, index: int, alive: Collection[str]) -> FungiError | None:
        attempts = self._attempts.get(index)
        if attempts is None:
            return None
        deaths = sum(machine in alive for machine in attempts.machines)
        if deaths < DEATHS and len(attempts.machines) < LOSSES:
            return None
        return FungiError(
            f"each worker that took these units died: {len(attempts.machines)} in a row",
            where=units_of(Slice(index, self.count)),
            found=attempts.cause,
            hint="if memory was full, a smaller --batch-size or fewer actors on a node; then the "
            "same command again: the other units are kept",
        )


def units_of(part: Slice) -> str:
    """Return the units of a slice, for messages."""
    if part.count == 1:
        return "all units"
    first = ", ".join(str(part.index + part.count * number) for number in range(3))
    return f"units {first}, ... (every {part.count}th)"
