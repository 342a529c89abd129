"""Claims of a store in an object store: a lease for each, and one that is held for moments.

What decides is the object of a lease alone, by conditional puts (see `leases`). A claim is written
down, and looked at, while the short lock is held. Its owner may be paused in there for longer than
its lease: then the short lock cannot be given back, and what was taken meanwhile is given back
instead, before anybody has been told that it was taken.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import cache
from threading import Condition, RLock, Thread
from uuid import uuid4

from fungistore.errors import FungiError
from fungistore.remote.bucket import ABSENT, Bucket, ChangedError
from fungistore.store.leases import FREE_BYTES, Lease, Seen, clock, look
from fungistore.store.locks import Claim, MomentLostError, Slice, collide
from fungistore.store.manifest import LOGGER

LOCKS = ".locks"
SHORT = f"{LOCKS}/short.json"
CLOCK = f"{LOCKS}/clock"  # put to learn the server's time
LEASE_SECONDS = 60.0
MOMENT_SECONDS = 10.0
WAIT_SECONDS = 600.0  # for the short lock
POLL_SECONDS = (0.02, 1.0)  # first, at last
IDLE_SECONDS = 2.0
UNKNOWN = Claim("", 0, 1, "", 0, "an unknown host", "an unknown time", "its record is damaged")


@dataclass(frozen=True)
class LeasedClaim(Claim):
    """A claim whose owner has to renew it.

    Attributes:
        left: seconds after which others may take it, unless it is renewed.
    """

    left: float = 0.0

    def __str__(self) -> str:
        return f"{super().__str__()}; free in {max(0.0, self.left):.0f} s if its owner has died"


class ObjectClaims:
    """The claims below a URL.

    Args:
        bucket: of that URL; with little patience, or leases run out while a request hangs.
        seconds: that a claim holds without being renewed.
        moment_seconds: the same of the short lock.
    """

    def __init__(
        self,
        bucket: Bucket,
        seconds: float = LEASE_SECONDS,
        moment_seconds: float = MOMENT_SECONDS,
    ) -> None:
        self.seconds = seconds
        self.moment_seconds = moment_seconds
        self._bucket = bucket
        self.finishing: Callable[[], None] = lambda: None  # done before a claim is given back
        self._held: dict[str, Lease] = {}
        self._taken: list[Lease] | None = None  # in the present moment
        self._ran_out: list[Seen] | None = None  # as `live` saw them in it
        self._short: Lease | None = None
        self._one = RLock()  # of this process's threads, in a moment
        self._changed = Condition()
        self._renewer: Thread | None = None
        self._is_conditional: bool | None = None
        self._is_gone = False
        self._tokens: set[str] = set()  # of this process's moments that may not be given back

    @contextmanager
    def moment(self) -> Iterator[None]:
        """Hold the short lock."""
        if self._is_gone:
            raise FileNotFoundError(errno.ENOENT, "the store was removed", self._bucket.where)
        with self._one:
            short = self._acquire()
            self._keep(short)
            self._taken, self._ran_out = [], None
            try:
                yield
            except BaseException:
                self._drop(short)
                with suppress(OSError):
                    short.give_back()
                raise
            self._drop(short)
            if not short.give_back():
                for lease in self._taken:
                    self._drop(lease)
                    lease.give_back()
                raise MomentLostError(
                    "another process took over the store's short lock",
                    where=f"{self._bucket.where}/{SHORT}",
                    hint="run the same command again",
                )

    @contextmanager
    def take(self, claim: Claim) -> Iterator[None]:
        """Put a claim where there is none, or none that holds."""
        digest = hashlib.blake2b(claim.thing.encode(), digest_size=8).hexdigest()
        key = f"{LOCKS}/{digest}.{claim.index}-of-{claim.count}.json"
        self._end_others(key, claim)
        lease, seen = Lease(self._bucket, key, self.seconds), look(self._bucket, key)
        if seen and seen.record is None:
            raise FungiError(
                "what says who writes is damaged",
                where=f"{self._bucket.where}/{key}",
                hint="remove that object when nobody writes",
            )
        is_free = seen is None or seen.is_free(self.server_time)
        if not (is_free and lease.take(seen, claim.token, claim)):
            raise MomentLostError(
                "another process took the claim meanwhile", where=f"{self._bucket.where}/{key}"
            )
        self._keep(lease)
        if self._taken is not None:
            self._taken.append(lease)
        try:
            yield
            self.finishing()
        finally:
            self._drop(lease)
            with suppress(OSError):  # it runs out
                lease.give_back()

    def live(self) -> list[Claim]:
        """Return what is held; what dead owners left stays, and is taken when it is wanted."""
        now, every = cache(self.server_time), self._all()
        held = [seen for seen in every if self._is_held(seen, now)]
        self._ran_out = [seen for seen in every if seen not in held]
        return [_claim(seen, now()) for seen in held]

    def seen(self) -> list[Claim]:
        """Return what is held; a reader puts nothing, so this machine's clock tells ages."""
        return [_claim(seen, _here()) for seen in self._all() if self._is_held(seen, _here)]

    def check(self) -> None:
        """Return if all that this process holds here is alive.

        Raises:
            LeaseLostError: another process has taken one of them over.
        """
        for lease in list(self._held.values()):
            lease.hold()

    def forget(self) -> None:
        """Hold nothing any more: the store is about to be removed, and the claims with it."""
        self._is_gone = True
        for lease in list(self._held.values()):
            self._drop(lease)

    def remember(self) -> None:
        """Let there be a store again."""
        self._is_gone = False

    def server_time(self) -> datetime:
        """Return what time it is, by the server's clock."""
        self._bucket.put(CLOCK, b"")
        return self._bucket.head(CLOCK).modified

    def _end_others(self, key: str, claim: Claim) -> None:
        """End what ran out and cannot be beside a claim.

        Its owner may only be paused: woken, it would find its own object as it was, and go on.
        """
        ran_out = self._all() if self._ran_out is None else self._ran_out
        for seen in ran_out:
            found = seen.record and seen.record.claim
            if not found or seen.head.key == key or self._is_mine(seen):
                continue
            if collide(claim.thing, Slice(claim.index, claim.count), found):
                is_free = seen.is_free(self.server_time)
                if not (is_free and Lease(self._bucket, seen.head.key, self.seconds).end(seen)):
                    where = f"{self._bucket.where}/{seen.head.key}"
                    raise MomentLostError("its owner has renewed a claim meanwhile", where=where)

    def _is_held(self, seen: Seen, now: Callable[[], datetime]) -> bool:
        return self._is_mine(seen) or not seen.is_free(now)

    def _all(self) -> list[Seen]:
        keys = [
            one.key
            for one in self._bucket.below(LOCKS)
            if one.size > FREE_BYTES and one.key not in (SHORT, CLOCK)
        ]
        return [seen for seen in (look(self._bucket, key) for key in keys) if seen]

    def _is_mine(self, seen: Seen) -> bool:
        lease, owner = self._held.get(seen.head.key), seen.record and seen.record.owner
        return bool(lease and owner and lease.token == owner.token)

    def _acquire(self) -> Lease:
        """Return the short lock, taken."""
        token, wait, end = uuid4().hex, POLL_SECONDS[0], clock() + WAIT_SECONDS
        self._learn()
        if self._short and self._short.retake(token):
            self._tokens = {token}
            return self._short
        short = self._short = Lease(self._bucket, SHORT, self.moment_seconds)
        self._tokens.add(token)
        while True:
            seen = look(self._bucket, SHORT)
            if self._is_free(seen) and short.take(seen, token):
                return short
            if clock() > end:
                raise FungiError(
                    "another process holds the store's short lock and does not go on",
                    where=f"{self._bucket.where}/{SHORT}",
                    found=seen.record.owner if seen and seen.record else None,
                    hint="end it, or remove that object when nobody writes",
                )
            time.sleep(wait)
            wait = min(2 * wait, POLL_SECONDS[1])

    def _is_free(self, short: Seen | None) -> bool:
        """Whether nobody has the short lock, or a moment of this process that could not say so."""
        owner = short.record.owner if short and short.record else None
        is_ours = owner is not None and owner.token in self._tokens
        return short is None or is_ours or short.is_free(self.server_time)

    def _learn(self) -> None:
        """Find out whether the server keeps conditions; say it if not."""
        if self._is_conditional is not None:
            return
        self._bucket.put(CLOCK, b"")
        try:
            self._bucket.put(CLOCK, b"", expected=ABSENT)
        except ChangedError:
            self._is_conditional = True
            return
        self._is_conditional = False
        logging.getLogger(LOGGER).warning(
            "%s: the server ignores conditional puts: let one process at a time write into this "
            "store, for two would not see each other reliably",
            self._bucket.where,
        )

    def _keep(self, lease: Lease) -> None:
        """Renew a lease from here on."""
        with self._changed:
            self._held[lease.key] = lease
            if self._renewer is None or not self._renewer.is_alive():
                self._renewer = Thread(target=self._renew, name="fungi-leases", daemon=True)
                self._renewer.start()
            self._changed.notify()

    def _drop(self, lease: Lease) -> None:
        with self._changed:
            self._held.pop(lease.key, None)

    def _renew(self) -> None:
        """Renew what is held until nothing is."""
        while True:
            with self._changed:
                if not self._held and not self._changed.wait(IDLE_SECONDS) and not self._held:
                    self._renewer = None
                    return
                leases = list(self._held.values())
                wait = min((lease.renew_at for lease in leases), default=0.0) - clock()
                if wait > 0:
                    self._changed.wait(min(wait, self.seconds))
                    continue
            for lease in leases:
                if lease.renew_at <= clock():
                    with suppress(Exception):  # whoever writes next is told
                        lease.renew()


def _claim(seen: Seen, now: datetime) -> Claim:
    claim = seen.record.claim if seen.record else None
    if claim is None:
        told = f"its record is damaged: remove {seen.head.key} when nobody writes"
        return replace(UNKNOWN, command=told)
    return LeasedClaim(**asdict(claim), left=seen.left(now))


def _here() -> datetime:
    return datetime.now().astimezone()
