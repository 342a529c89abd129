"""Claims at a URL that collide: paused owners, damaged records, other users' processes, forks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta

import pytest

from fungistore.errors import FungiError, LeaseLostError, UsageError
from fungistore.remote.bucket import Bucket, forget_buckets, open_bucket
from fungistore.remote.urls import shown
from fungistore.store import leases
from fungistore.store.locks import MomentLostError, Slice
from fungistore.store.object_claims import LOCKS, SHORT, UNKNOWN, ObjectClaims
from fungistore.store.objects import ObjectBackend
from fungistore.store.store import Store

WHERE = "memory://claims.fungi"
LEASE = 0.06


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A memory of each test's own, which tells time exactly."""
    monkeypatch.setattr(leases, "SLACK_SECONDS", 0.0)
    forget_buckets()
    yield
    forget_buckets()


def place(seconds: float = 60) -> ObjectBackend:
    """Return a backend as another process has it; its short lock lasts."""
    found = open_bucket(WHERE)
    return ObjectBackend(found, ObjectClaims(found, seconds))


@contextmanager
def paused(backend: ObjectBackend) -> Iterator[None]:
    """Let nobody renew what a backend holds, until it has run out."""
    claims = backend.claims
    assert isinstance(claims, ObjectClaims)
    held = list(claims._held.values())
    for lease in held:
        claims._drop(lease)
    time.sleep(2 * LEASE)
    yield
    for lease in held:
        claims._keep(lease)


@pytest.mark.parametrize(
    ("late", "next_one", "can_both"),
    [
        (("features/set", Slice(0, 2)), ("features/set", Slice()), False),
        (("features/set", Slice(0, 2)), ("features/set", Slice(0, 3)), False),
        (("features", Slice()), ("features/set", Slice()), False),
        (("features/set/kl", Slice()), ("features", Slice()), False),
        (("features/set", Slice()), ("", Slice()), False),
        (("features/set", Slice(0, 2)), ("features/set", Slice(1, 2)), True),
        (("features/set", Slice()), ("features/setting", Slice()), True),
    ],
)
def test_a_woken_owner_does_not_write_beside_another_claim(
    late: tuple[str, Slice], next_one: tuple[str, Slice], can_both: bool
) -> None:
    """Its claim is another object, as it was: it is ended if the two cannot be at once."""
    Store.open_or_create(place())
    first, second = place(LEASE), place()
    with Store.open(first).writing(late[0], part=late[1]):
        with paused(first):
            held = Store.open(second).writing(*filter(None, [next_one[0]]), part=next_one[1])
            held.__enter__()
        if can_both:
            first.publish("x", b"late")
        else:
            with pytest.raises(LeaseLostError, match="run the same command again"):
                first.publish("x", b"late")
        assert len(Store.open(place()).writers()) == 1 + can_both
        held.__exit__(None, None, None)
    assert first.has("x") == can_both
    assert Store.open(WHERE).writers() == []


@pytest.mark.parametrize("garbage", [b"", b"{", b"x" * 500])
def test_a_damaged_claim_is_named_and_not_waited_for(garbage: bytes) -> None:
    """Nobody else puts such a thing: people remove it."""
    Store.open_or_create(place())
    with Store.open(place()).writing("features/set"):
        pass
    (key,) = [one.key for one in open_bucket(WHERE).below(LOCKS) if "-of-" in one.key]
    open_bucket(WHERE).put(key, garbage)
    with pytest.raises(FungiError, match="damaged") as caught:
        Store.open(place()).writing("features/set").__enter__()
    assert key in str(caught.value)
    assert "when nobody writes" in str(caught.value)


def test_the_live_process_of_another_user_is_not_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems that hide others' processes (hidepid) say nothing of them in /proc."""
    me = leases.Owner.me("t", 1)
    assert not me.is_dead()
    assert replace(me, started="1").is_dead()
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert replace(me, pid=child.pid).is_dead()
    monkeypatch.setattr(leases, "_started", lambda pid: None)
    assert not me.is_dead()
    assert replace(me, pid=child.pid).is_dead()

    def refused(pid: int, signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refused)
    assert not replace(me, pid=child.pid).is_dead()


def test_work_that_is_done_is_not_called_lost_at_its_end() -> None:
    """The short lock is taken over while claims are given back: all has been written by then."""
    Store.open_or_create(place())
    backend = place()
    claims = backend.claims
    assert isinstance(claims, ObjectClaims)
    live = claims.live

    def taken_over() -> list:
        found = live()
        assert claims._short is not None
        seen = leases.look(open_bucket(WHERE), claims._short.key)
        assert seen is not None
        assert leases.Lease(open_bucket(WHERE), claims._short.key, 1).take(seen, "another")
        return found

    with Store.open(backend).writing("features/set"):
        claims.live = taken_over  # type: ignore[method-assign]
    assert Store.open(WHERE).writers() == []


def test_what_was_taken_in_a_moment_that_was_lost_is_given_back() -> None:
    """Nobody has been told that it was taken."""
    Store.open_or_create(place())
    claims = place().claims
    assert isinstance(claims, ObjectClaims)
    claim = replace(UNKNOWN, thing="features/set", token="mine")
    taken = claims.take(claim)

    def lose() -> None:
        with claims.moment():
            taken.__enter__()
            assert [one.token for one in claims.seen()] == ["mine"]
            seen = leases.look(open_bucket(WHERE), SHORT)
            assert leases.Lease(open_bucket(WHERE), SHORT, 1).take(seen, "another")

    with pytest.raises(MomentLostError):
        lose()
    assert claims.seen() == []
    assert not claims._held
    taken.__exit__(None, None, None)


def test_renewing_goes_on_after_an_error_of_any_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease whose renewal failed once in an odd way is renewed all the same."""
    Store.open_or_create(place())
    renew, odd = leases.Lease.renew, [RuntimeError("odd")]

    def failing(self: leases.Lease) -> None:
        if odd:
            raise odd.pop()
        renew(self)

    backend = place(0.8)
    with Store.open(backend).writing("features/set"):
        monkeypatch.setattr(leases.Lease, "renew", failing)
        time.sleep(1.6)
        assert not odd
        assert len(Store.open(place()).writers()) == 1
        with pytest.raises(FungiError, match="another process"):
            Store.open(place()).writing().__enter__()


def test_a_forked_process_is_refused_and_does_not_hang() -> None:
    """As the workers of a DataLoader are, where nothing else is said."""
    code = (
        "import os\n"
        "from fungistore.remote.bucket import open_bucket\n"
        "found = open_bucket('memory://x')\n"
        "found.put('k', b'1')\n"
        "if (child := os.fork()) == 0:\n"
        "    try:\n"
        "        found.get('k')\n"
        "    except Exception as error:\n"
        "        print(error, flush=True)\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "print(found.get('k'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert 'multiprocessing_context="spawn"' in done.stdout
    assert done.stdout.endswith("b'1'\n")


def test_commands_in_claims_have_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL on the command line may carry a password, or a signature."""
    words = ["fungi", "extract", "https://me:WORD@host/x?sig=SIGNATURE", "a?b", WHERE]
    monkeypatch.setattr(sys, "argv", words)
    with Store.open_or_create(place()).writing("features/set"):
        found = open_bucket(WHERE)
        said = b"".join(found.get(one.key) for one in found.below())
        (claim,) = Store.open(WHERE).writers()
    assert b"WORD" not in said
    assert b"SIGNATURE" not in said
    assert claim.command == f"fungi extract https://host/x 'a?b' {WHERE}"


@pytest.mark.parametrize(
    "url",
    [
        "s3://KEY:WORD@b/x",
        "s3://b/run#WORD",
        "gs://b/x?sig=WORD",
        "memory://b#WORD",
        "s3://WORD@b/x",
    ],
)
def test_a_bucket_has_a_place_alone(url: str) -> None:
    """What follows ? or # would be passed over, and two stores be one; keys are told nobody."""
    with pytest.raises(UsageError, match="a place alone") as caught:
        open_bucket(url)
    assert "WORD" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_container_before_the_host_is_part_of_the_place() -> None:
    """As Azure's abfs:// has it; what is shown can be opened again."""
    assert shown("abfs://c@a.dfs.core.windows.net/x") == "abfs://c@a.dfs.core.windows.net/x"
    assert shown("abfs://c:WORD@a.dfs.core.windows.net/x") == "abfs://c@a.dfs.core.windows.net/x"
    assert open_bucket("abfs://c@a.dfs.core.windows.net/x").where.startswith("abfs://c@")


@pytest.mark.parametrize("hours", [-1, 1])
def test_ages_are_judged_by_the_clock_of_the_server(hours: int) -> None:
    """Which may be an hour off this machine's: a claim holds as long, and no longer."""

    class Off(Bucket):
        """A server with a clock of its own."""

        def head(self, key):
            found = super().head(key)
            return replace(found, modified=found.modified + timedelta(hours=hours))

        def fetch(self, key):
            found, data = super().fetch(key)
            return replace(found, modified=found.modified + timedelta(hours=hours)), data

    def off(seconds: float) -> ObjectBackend:
        found = Off(WHERE, open_bucket(WHERE).store)
        return ObjectBackend(found, ObjectClaims(found, seconds))

    Store.open_or_create(off(60))
    with Store.open(off(60)).writing("features/set"), pytest.raises(FungiError, match="another"):
        Store.open(off(60)).writing("features").__enter__()
    first = off(LEASE)
    with (
        suppress(LeaseLostError),
        Store.open(first).writing("features/set"),
        paused(first),
        Store.open(off(60)).writing("features/set"),
    ):
        pass
