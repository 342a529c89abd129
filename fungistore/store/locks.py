"""Who writes what: claims on the things that are being written, with their owners.

A thing is a path of names, such as "features/vit/gradients/kl"; whoever holds "features/vit" holds
all below it, and "" is the whole store. Workers that divide the units of an array between them
hold slices of it. Every claim is taken and looked at in a moment that nobody else has, so no two
that collide can be taken at once, and what dead owners left can be removed.
"""

from __future__ import annotations

import os
import shlex
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from fungistore.errors import FungiError, LeaseLostError
from fungistore.machine.context import Context
from fungistore.remote.refusals import without_secrets

POLL_SECONDS = 0.2
COMMAND_SHOWN = 160


@dataclass(frozen=True)
class Slice:
    """Every `count`-th unit, from unit `index` on; the default is all of them."""

    index: int = 0
    count: int = 1

    def __contains__(self, unit: object) -> bool:
        return isinstance(unit, int) and unit % self.count == self.index

    def __str__(self) -> str:
        return f"worker {self.index} of {self.count}"


WHOLE = Slice()


class BusyError(FungiError):
    """Another process writes the same; once it has ended, or its claim has run out, it goes."""


@dataclass(frozen=True)
class Claim:
    """A lock that is held: on what, by whom, since when.

    Attributes:
        thing: what is being written.
        index, count: the slice of its units.
        token: random name of this one acquisition.
        pid, host: the owner.
        since: when it was taken, with the time zone.
        command: what the owner runs.
    """

    thing: str
    index: int
    count: int
    token: str
    pid: int
    host: str
    since: str
    command: str

    def __str__(self) -> str:
        part = "" if self.count == 1 else f", as {Slice(self.index, self.count)}"
        return f"held by pid {self.pid} on {self.host} since {self.since}{part} ({self.command})"


class MomentLostError(LeaseLostError):
    """A moment ended before its time, while others may have had theirs: nothing was taken in it."""


class Claims(Protocol):
    """Who writes what; what a dead owner held is free, however it died.

    A backend whose claims can run out (a lease) lets none of its own writes through once they have.
    """

    def moment(self) -> AbstractContextManager[None]:
        """Hold all claims for a moment, to look at them and to take some; others wait.

        Raises:
            FungiError: another process has held them for minutes.
            MomentLostError: it did not last; at its end, or within it.
            FileNotFoundError: the store is gone.
            OSError: the store cannot be written to.
        """

    def take(self, claim: Claim) -> AbstractContextManager[None]:
        """Hold a claim until the end; enter it within a `moment`, in which nobody else has it."""

    def live(self) -> list[Claim]:
        """Return what is held, and forget what dead owners left; call it within a `moment`."""

    def seen(self) -> list[Claim]:
        """Return what is held, without write access, and without hindering anybody."""


class StoreLocks:
    """The locks of one store.

    Args:
        where: the store, for messages.
        claims: where they are kept.
    """

    def __init__(self, where: str, claims: Claims) -> None:
        self._where = where
        self._claims = claims

    def short(self) -> AbstractContextManager[None]:
        """Hold the store for a moment; others wait.

        Raises:
            FungiError: another process has held it for minutes.
            OSError: the store cannot be written to.
        """
        return self._claims.moment()

    @contextmanager
    def hold(
        self, things: Sequence[str], part: Slice = WHOLE, patience: Context | None = None
    ) -> Iterator[frozenset[str]]:
        """Hold some things, all or none, and yield the tokens of the claims.

        Args:
            things: what is going to be written.
            part: the slice of their units.
            patience: wait for another owner of the same thing; default: refuse at once. Owners of
                something above or below it are never waited for.

        Raises:
            BusyError: another process writes one of them.
            StoppedError: `patience` ended.
        """
        told = ""
        while not isinstance(taken := self._try(things, part), tuple):
            if taken is None:  # the moment did not last
                continue
            if patience is None or taken.thing not in things:
                raise self._refusal(taken)
            patience.stop_if_asked()
            if taken.token != told:
                patience.reporter.notice(f"waiting for {taken.thing}: {taken}")
                told = taken.token
            time.sleep(POLL_SECONDS)
        tokens, held = taken
        with held:
            try:
                yield tokens
            finally:
                self._let_go(held)

    def others(self, mine: frozenset[str]) -> list[Claim]:
        """Return the live claims whose token is not among `mine`; call it under `short`."""
        return [claim for claim in self._claims.live() if claim.token not in mine]

    def writers(self) -> list[Claim]:
        """Return who writes now; needs no write access, and hinders nobody."""
        return self._claims.seen()

    def _try(
        self, things: Sequence[str], part: Slice
    ) -> tuple[frozenset[str], ExitStack] | Claim | None:
        try:
            return self._take(things, part)
        except MomentLostError:
            return None

    def _take(self, things: Sequence[str], part: Slice) -> tuple[frozenset[str], ExitStack] | Claim:
        """Take the claims, or return the one that is in the way."""
        with self.short(), ExitStack() as held:
            for claim in self._claims.live():
                if any(collide(thing, part, claim) for thing in things):
                    return claim
            mine = [_claim(thing, part) for thing in things]
            for claim in mine:
                held.enter_context(self._claims.take(claim))
            return frozenset(claim.token for claim in mine), held.pop_all()

    def _let_go(self, held: ExitStack) -> None:
        """Let go, and forget the claims; those of a killed owner are forgotten by the next one."""
        # whoever took the short lock over meanwhile sees claims that are free, or about to be
        with suppress(MomentLostError), ExitStack() as moment:
            try:
                moment.enter_context(self.short())
            except FileNotFoundError:  # the holder has removed the store
                return
            held.close()
            self._claims.live()

    def _refusal(self, claim: Claim) -> BusyError:
        hint = "wait for it to end, then run the same command again"
        if claim.count > 1:
            hint += "; workers of one run have the same --num-workers and different --worker-id"
        return BusyError(
            f"another process is writing {claim.thing or 'into the store'}",
            where=self._where,
            found=claim,
            hint=hint,
        )


def _claim(thing: str, part: Slice) -> Claim:
    return Claim(
        thing=thing,
        index=part.index,
        count=part.count,
        token=uuid.uuid4().hex,
        pid=os.getpid(),
        host=socket.gethostname(),
        since=datetime.now().astimezone().isoformat(" ", "seconds"),
        command=shlex.join([Path(sys.argv[0]).name, *map(_shown, sys.argv[1:])])[:COMMAND_SHOWN],
    )


def _shown(word: str) -> str:
    return without_secrets(word) if "://" in word else word


def collide(thing: str, part: Slice, claim: Claim) -> bool:
    """Whether a thing's slice cannot be written beside a claim."""
    if thing == claim.thing:
        return part.count != claim.count or part.index == claim.index
    above, below = sorted((thing, claim.thing), key=len)
    return not above or below.startswith(f"{above}/")
