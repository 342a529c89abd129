"""Who writes what: a lock file for each thing that is being written, with its owner beside it.

A thing is a path of names, such as "features/vit/gradients/kl"; whoever holds "features/vit" holds
all below it, and "" is the whole store. Workers that divide the units of an array between them
hold slices of it. Every lock is taken and looked at under one short lock, so no two of them can
be taken at once, and the files of dead owners can be removed.

The operating system frees a lock when its owner dies, however it dies: nothing has to be cleaned
up by hand. On network file systems the same holds where they carry flock between hosts (NFS 4,
Lustre mounted with `flock`, GPFS, CephFS); elsewhere processes of one host see each other only,
and workers on several hosts must be told apart by --worker-id alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from fungistore.errors import FungiError
from fungistore.machine.context import Context

LOCKS = ".locks"
SHORT = "short.lock"
SHORT_SECONDS = 600  # held for moments: whoever holds it longer hangs
POLL_SECONDS = 0.2
COMMAND_SHOWN = 160


@dataclass(frozen=True)
class Slice:
    """Every `count`-th unit, from unit `index` on; the default is all of them."""

    index: int = 0
    count: int = 1

    def __contains__(self, unit: int) -> bool:
        return unit % self.count == self.index

    def __str__(self) -> str:
        return f"worker {self.index} of {self.count}"


WHOLE = Slice()


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


UNKNOWN = Claim("", 0, 1, "", 0, "an unknown host", "an unknown time", "its record is damaged")
CLAIM = TypeAdapter(Claim)


class StoreLocks:
    """The locks of one store.

    Args:
        root: the store's directory.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._directory = root / LOCKS

    @contextmanager
    def short(self) -> Iterator[None]:
        """Hold the store for a moment; others wait.

        Raises:
            FungiError: another process has held it for minutes.
            OSError: the directory cannot be written to.
        """
        self._directory.mkdir(exist_ok=True)
        lock = FileLock(self._directory / SHORT, timeout=SHORT_SECONDS, poll_interval=0.01)
        try:
            lock.acquire()
        except Timeout as error:
            raise FungiError(
                "another process holds the store's short lock and does not go on",
                where=self._directory / SHORT,
                hint="find it with: lsof, or fuser; end it",
            ) from error
        try:
            yield
        finally:
            lock.release()

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
            FungiError: another process writes one of them.
            StoppedError: `patience` ended.
        """
        told = ""
        while isinstance(taken := self._take(things, part), Claim):
            if patience is None or taken.thing not in things:
                raise self._refusal(taken)
            patience.stop_if_asked()
            if taken.token != told:
                patience.reporter.notice(f"waiting for {taken.thing}: {taken}")
                told = taken.token
            time.sleep(POLL_SECONDS)
        tokens, locks = taken
        with locks:
            try:
                yield tokens
            finally:
                self._tidy(locks)

    def _tidy(self, locks: ExitStack) -> None:
        """Let go, and remove the files; those of a killed owner are removed by the next writer."""
        if self._directory.is_dir():  # the holder may have removed the store
            with self.short():
                locks.close()
                self._live()

    def others(self, mine: frozenset[str]) -> list[Claim]:
        """Return the live claims whose token is not among `mine`; call it under `short`."""
        return [claim for claim in self._live() if claim.token not in mine]

    def writers(self) -> list[Claim]:
        """Return who writes now; needs no write access, and hinders nobody."""
        return [
            _read(path.with_suffix(".json"))
            for path in sorted(self._directory.glob("*.lock"))
            if path.name != SHORT and _is_held(path)
        ]

    def _take(self, things: Sequence[str], part: Slice) -> tuple[frozenset[str], ExitStack] | Claim:
        """Take the locks, or return the claim that is in the way."""
        with self.short(), ExitStack() as locks:
            for claim in self._live():
                if any(_collide(thing, part, claim) for thing in things):
                    return claim
            tokens = frozenset(locks.enter_context(self._lock(thing, part)) for thing in things)
            return tokens, locks.pop_all()

    @contextmanager
    def _lock(self, thing: str, part: Slice) -> Iterator[str]:
        claim = Claim(
            thing=thing,
            index=part.index,
            count=part.count,
            token=uuid.uuid4().hex,
            pid=os.getpid(),
            host=socket.gethostname(),
            since=datetime.now().astimezone().isoformat(" ", "seconds"),
            command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:COMMAND_SHOWN],
        )
        digest = hashlib.blake2b(thing.encode(), digest_size=8).hexdigest()
        name = f"{digest}.{part.index}-of-{part.count}"
        (self._directory / f"{name}.json").write_text(json.dumps(asdict(claim), indent=1))
        # nobody else has it now, but a reader may look whether it is held
        with FileLock(self._directory / f"{name}.lock", timeout=1):
            yield claim.token

    def _live(self) -> list[Claim]:
        """Return what is held; removes the files of what is not, which the short lock makes safe.

        A file that is locked by somebody but says nothing counts as a claim on everything.
        """
        claims = []
        for path in sorted(self._directory.glob("*.lock")):
            if path.name == SHORT:
                continue
            record = path.with_suffix(".json")
            try:
                with FileLock(path, timeout=0):
                    record.unlink(missing_ok=True)
                    path.unlink()
            except Timeout:
                claims.append(_read(record))
        return claims

    def _refusal(self, claim: Claim) -> FungiError:
        hint = "wait for it to end, then run the same command again"
        if claim.count > 1:
            hint += "; workers of one run have the same --num-workers and different --worker-id"
        return FungiError(
            f"another process is writing {claim.thing or 'into the store'}",
            where=self._root,
            found=claim,
            hint=hint,
        )


def _collide(thing: str, part: Slice, claim: Claim) -> bool:
    """Whether a thing's slice cannot be written beside a claim."""
    if thing == claim.thing:
        return part.count != claim.count or part.index == claim.index
    above, below = sorted((thing, claim.thing), key=len)
    return not above or below.startswith(f"{above}/")


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # removed in the meantime
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _read(record: Path) -> Claim:
    try:
        return CLAIM.validate_json(record.read_bytes())
    except (OSError, ValueError):
        return UNKNOWN
