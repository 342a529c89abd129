"""Leases: objects in a bucket that their owner puts anew before they run out.

Only conditional puts decide. An object that is as its owner last put it has been taken by nobody;
one that is not, has been. Ages are judged by the server's clock alone, so no two clocks need agree,
and the owner's own only tells it when to look again.
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from threading import RLock
from uuid import uuid4

from pydantic import TypeAdapter

from fungistore.errors import LeaseLostError
from fungistore.remote.bucket import ABSENT, Bucket, ChangedError
from fungistore.remote.heads import Head
from fungistore.store.locks import Claim

RENEWALS = 4  # per lease: three may fail
SLACK_SECONDS = 2.0  # S3 tells whole seconds, of both times that are compared
WAITS = (0.05, 0.2, 0.8)  # seconds, after a cut connection
FREE_BYTES = 128  # what says who has a lease is longer


@dataclass(frozen=True)
class Owner:
    """A process, as others can tell whether it still lives.

    Attributes:
        token: random name of this one acquisition.
        boot, pids: ids of the machine's start and of the namespace of its process numbers; "" where
            the system tells none.
        pid: its number.
        started: when it was started, in ticks since the boot.
        seconds: how long the lease holds from its last renewal on.
    """

    token: str
    boot: str
    pids: str
    pid: int
    started: str
    seconds: float

    @classmethod
    def me(cls, token: str, seconds: float) -> Owner:
        """Return this process."""
        pid = os.getpid()
        return cls(token, *_system(), pid, _started(pid) or "", seconds)

    def is_dead(self) -> bool:
        """Whether it has ended, as far as this machine can tell."""
        if not self.boot or (self.boot, self.pids) != _system():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # another user's, of whom /proc may tell nothing (hidepid)
            pass
        return _started(self.pid) not in (self.started, None)


@dataclass(frozen=True)
class Record:
    """What the object of a lease says.

    Attributes:
        fence: number of its acquisitions, this one included.
        renewed: how often it has been renewed; each renewal differs, and so does its tag.
        owner: who has it, None where nobody does.
        claim: what it is about; None of the short lock.
        last: token of who had it before and gave it back, "" after one who did not.
    """

    fence: int = 0
    renewed: int = 0
    owner: Owner | None = None
    claim: Claim | None = None
    last: str = ""

    def encode(self) -> bytes:
        """Return it as it is stored."""
        if self.owner is None:
            return json.dumps({"fence": self.fence, "last": self.last}).encode()
        return RECORD.dump_json(self)


RECORD = TypeAdapter(Record)


@dataclass(frozen=True)
class Seen:
    """A lease as it was seen: the object, and what it says; `record` is None where it is damaged"""

    head: Head
    record: Record | None

    def age(self, now: datetime) -> float:
        """Return the seconds since it was put."""
        return (now - self.head.modified).total_seconds()

    def left(self, now: datetime) -> float:
        """Return the seconds after which others may take it, by the server's clock."""
        owner = self.record.owner if self.record else None
        seconds = owner.seconds if owner else 0.0
        return seconds + SLACK_SECONDS - self.age(now)

    def is_free(self, now: Callable[[], datetime]) -> bool:
        """Whether it can be taken: given back, its owner dead, or run out."""
        if self.record is None:  # nobody puts such a thing: it is left to people
            return False
        owner = self.record.owner
        return owner is None or owner.is_dead() or self.left(now()) < 0


def look(bucket: Bucket, key: str) -> Seen | None:
    """Return a lease's object as it is now, None where there is none."""
    try:
        head, data = bucket.fetch(key)
    except FileNotFoundError:
        return None
    try:
        return Seen(head, RECORD.validate_json(data))
    except ValueError:
        return Seen(head, None)


class Lease:
    """A lease that this process has taken; several threads may use it.

    Args:
        bucket: where it is.
        key: of its object.
        seconds: that it holds.
    """

    def __init__(self, bucket: Bucket, key: str, seconds: float) -> None:
        self.key = key
        self.seconds = seconds
        self._bucket = bucket
        self._lock = RLock()
        self._record = Record()
        self._state: str | None = None
        self._until = 0.0
        self._is_lost = False
        self.renew_at = math.inf  # by `clock`

    @property
    def token(self) -> str:
        """The token of its acquisition, "" where this process does not have it."""
        return self._record.owner.token if self._record.owner else ""

    def take(self, seen: Seen | None, token: str, claim: Claim | None = None) -> bool:
        """Take it in the place of what was seen; False where that has changed."""
        before = seen.record if seen and seen.record else Record()
        last = "" if before.owner else before.last
        owner = Owner.me(token, self.seconds)
        record = Record(before.fence + 1, 0, owner, claim, last)
        return self._put(record, ABSENT if seen is None else seen.head.state)

    def retake(self, token: str) -> bool:
        """Take it again as this process gave it back, without a look; False where that changed."""
        if self._record.owner or self._is_lost:
            return False
        before, owner = self._record, Owner.me(token, self.seconds)
        return self._put(Record(before.fence + 1, 0, owner, None, before.last), self._state)

    def end(self, seen: Seen) -> bool:
        """Let nobody have it, who could renew it else; False where what was seen has changed."""
        before = seen.record or Record()
        return self._put(Record(before.fence + 1, last=uuid4().hex), seen.head.state)

    def hold(self) -> None:
        """Return if it is alive; renew it first where it may have run out.

        It holds on though it ran out, where the object is as this process last put it.

        Raises:
            LeaseLostError: another process has taken it, or removed it.
            OSError: the server does not tell.
        """
        if clock() >= self._until:
            self.renew()

    def renew(self) -> None:
        """Put it anew, unless it was given back; raises as `hold` does."""
        with self._lock:
            if not self.token:
                return
            self.renew_at = clock() + self.seconds / (5 * RENEWALS)  # where the server is away
            record = replace(self._record, renewed=self._record.renewed + 1)
            if self._is_lost or not self._put(record, self._state):
                self._is_lost, self._until, self.renew_at = True, 0.0, math.inf
                raise self._lost()

    def give_back(self) -> bool:
        """Say that it is free; False where another has taken it before."""
        with self._lock:
            free = Record(self._record.fence, last=self.token)
            state, self._until, self.renew_at = self._state, 0.0, math.inf
            self._record = replace(self._record, owner=None)  # whatever becomes of the request
            return not self._is_lost and self._put(free, state)

    def _put(self, record: Record, expected: str | None) -> bool:
        """Put a record if the object is as expected, or has become what this record says."""
        with self._lock:
            asked = clock()
            try:
                state = self._try(record.encode(), expected)
            except (ChangedError, FileNotFoundError):  # or a repetition, whose first was not told
                seen = look(self._bucket, self.key)
                there = seen.record if seen else None
                if there is None or seen is None:
                    return False
                if record.owner is None and there.last == record.last:  # and one took it since
                    there = record
                if there != record:
                    return False
                state = seen.head.state
            self._record, self._state = record, state
            if record.owner:
                self._until = asked + self.seconds
                self.renew_at = asked + self.seconds / RENEWALS
            return True

    def _try(self, data: bytes, expected: str | None) -> str | None:
        """Put on condition; again where the connection was cut, which obstore leaves to its user.

        The first may have been done: then the repetition is refused, and a look tells whose it is.
        """
        for wait in WAITS:
            try:
                return self._bucket.put(self.key, data, expected=expected)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                time.sleep(wait)
        return self._bucket.put(self.key, data, expected=expected)

    def _lost(self) -> LeaseLostError:
        claim, found = self._record.claim, "it is held by nobody now"
        with suppress(OSError):
            seen = look(self._bucket, self.key)
            if seen and seen.record and seen.record.owner:
                found = str(seen.record.claim or f"held by pid {seen.record.owner.pid}")
        return LeaseLostError(
            f"the lease on {(claim and claim.thing) or 'the store'} was lost: this process was "
            f"paused, or cut off, for longer than {self.seconds:g} s",
            where=f"{self._bucket.where}/{self.key}",
            found=found,
            hint="run the same command again: what was committed is kept",
        )


def clock() -> float:
    """Return seconds that go on while the machine is suspended, where the system counts them."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@cache
def _system() -> tuple[str, str]:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return boot, os.readlink("/proc/self/ns/pid")
    except OSError:
        return "", ""


def _started(pid: int) -> str | None:
    """Return when a process was started, "" of one that has ended, None where it is not told."""
    try:
        said = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *fields = said.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]
