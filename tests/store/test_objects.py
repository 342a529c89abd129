"""Stores in an object store: leases, guarded puts, late writers, lines, what errors say."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fault_proxy import Faults, proxied
from feature_world import ListSource
from fungistore.errors import FungiError, LeaseLostError, UsageError
from fungistore.fingerprint import digest_ids, fingerprint
from fungistore.remote import bucket as bucket_module
from fungistore.remote.bucket import ABSENT, Bucket, Patience, forget_buckets, open_bucket
from fungistore.remote.credentials import settings_of
from fungistore.remote.heads import Head
from fungistore.remote.refusals import refusal, without_secrets
from fungistore.remote.urls import shown
from fungistore.sources.sample import Sample
from fungistore.store import leases, object_claims, objects
from fungistore.store.backend import open_backend
from fungistore.store.failures import Failure
from fungistore.store.listing import add_source
from fungistore.store.locks import Slice
from fungistore.store.manifest import SCHEMA_VERSION
from fungistore.store.object_claims import ObjectClaims
from fungistore.store.objects import ObjectBackend
from fungistore.store.store import Store
from fungistore.store.units import UnitArray
from fungistore.verification.verify import verify_store
from s3_world import KEYS, bucket, make_bucket, s3_server

__all__ = ["bucket", "s3_server"]  # fixtures
WHERE = "memory://late.fungi"
ROWS, UNIT_ROWS, WIDTH = 12, 4, 3
UNITS = ROWS // UNIT_ROWS
CONFIG = {
    "schema": SCHEMA_VERSION[0],
    "layout": {"unit_rows": UNIT_ROWS, "codec": "none"},
    "vectors": {"dtype": "float32"},
    "made": {"name": "embeddings"},
}
LEASE = 0.06


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    """A memory of each test's own."""
    forget_buckets()
    yield
    forget_buckets()


@pytest.fixture
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases that run out at once where nobody renews them; memory tells time exactly."""
    monkeypatch.setattr(leases, "SLACK_SECONDS", 0.0)
    monkeypatch.setattr(objects, "THREADS", 1)  # puts have an order


@dataclass
class Pauses:
    """Where a writer is paused: all its threads stop, as by SIGSTOP, and what happens meanwhile."""

    at: int = -1
    meanwhile: Callable[[], None] = lambda: None
    points: int = 0
    running: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.running.set()

    def point(self) -> None:
        """Pass a point at which the writer's own thread may be paused."""
        self.points += 1
        if self.points - 1 == self.at:
            self.running.clear()
            try:
                self.meanwhile()
            finally:
                self.running.set()


class PausedBucket(Bucket):
    """A bucket whose requests are points: before each look, between look and put, after the put."""

    def __init__(self, pauses: Pauses) -> None:
        found = open_bucket(WHERE)
        super().__init__(WHERE, found.store)
        self._pauses, self._thread = pauses, threading.current_thread()

    def find(self, key):
        self._point()
        return super().find(key)

    def put(self, key, *pieces, expected=None):
        self._point()
        state = super().put(key, *pieces, expected=expected)
        self._point()
        return state

    def delete(self, keys):
        self._point()
        super().delete(keys)
        self._point()

    def _point(self) -> None:
        if threading.current_thread() is self._thread:
            self._pauses.point()
        else:  # the thread that renews
            self._pauses.running.wait()


def place(pauses: Pauses | None = None, seconds: float = LEASE) -> ObjectBackend:
    """Return a backend of the one store, as another process has it."""
    found = PausedBucket(pauses) if pauses else open_bucket(WHERE)
    return ObjectBackend(found, ObjectClaims(found, seconds, seconds))


def values(seed: int) -> NDArray[np.float32]:
    """Return the rows as one machine computes them; another differs in the last bits."""
    return np.random.default_rng(seed).normal(size=(ROWS, WIDTH)).astype(np.float32)


def prepare() -> None:
    """Make a store with samples, a setup, and an array without rows."""
    store = Store.open_or_create(WHERE)
    samples = [Sample(f"{row}.jpg", f"{row}.jpg", None, None) for row in range(ROWS)]
    add_source(store, ListSource(samples))
    store.setups.freeze(CONFIG, {}, {})
    UnitArray.create(
        store.backend,
        "set/embeddings",
        shape=(ROWS, WIDTH),
        dtype="float32",
        unit_rows=UNIT_ROWS,
        codec="none",
        fingerprint=fingerprint(CONFIG),
    )


def write(backend: ObjectBackend, seed: int) -> None:
    """Make what is missing, as every stage does: claim, look what is done, chunk, record."""
    block = values(seed)
    with Store.open(backend).writing("features/set") as store:
        array = store.arrays("set")["embeddings"]
        done = array.commits()
        for unit in set(range(array.units)) - done.keys():
            rows = range(unit * UNIT_ROWS, (unit + 1) * UNIT_ROWS)
            store.add_failures([Failure(rows[0], f"{rows[0]}.jpg", "Odd", "", "set")])
            ids = digest_ids(f"{row}.jpg" for row in rows)
            array.publish(unit, block[rows.start : rows.stop], ids, 0)
        store.compact_failures()


def contents() -> dict[str, bytes]:
    """Return all objects of the store but those of claims, and lines that continue nothing."""
    found, stale = open_bucket(WHERE), set(place().leftovers())
    return {
        one.key: found.get(one.key)
        for one in found.below()
        if not one.key.startswith(object_claims.LOCKS) and one.key not in stale
    }


def points_of(job: Callable[[ObjectBackend], None]) -> int:
    """Return how many points a writer passes that nobody disturbs."""
    pauses = Pauses()
    job(place(pauses))
    return pauses.points


# --- a writer that is paused past its lease


def test_a_late_writer_changes_nothing(short_leases: None) -> None:
    """Paused at any point for longer than its lease, while another finishes: refused, or done."""
    prepare()
    blank = contents()
    count, refused = points_of(lambda backend: write(backend, 1)), 0
    assert count > 30
    for at in range(count):
        forget_buckets()
        for key, data in blank.items():
            open_bucket(WHERE).put(key, data)
        after: dict[str, bytes] = {}

        def other(after: dict[str, bytes] = after) -> None:
            time.sleep(LEASE)
            write(place(), 2)
            after.update(contents())

        try:
            write(place(Pauses(at, other)), 1)
        except LeaseLostError as error:
            refused += 1
            assert "run the same command again" in str(error.hint)
        assert contents() == after, at
        assert len(Store.open(WHERE).arrays("set")["embeddings"].commits()) == UNITS
        assert len(Store.open(WHERE).failures()) == UNITS
        Store.open(WHERE).sweep()  # a line that came late is a leftover, and no line
        assert verify_store(WHERE).findings == ()
    assert refused > count // 2


def interleave(first: int, second: int) -> None:
    """Pause a writer at its point `first`, and wake it at the point `second` of the next owner."""
    paused, woken, tried = threading.Event(), threading.Event(), threading.Event()

    def asleep() -> None:
        time.sleep(LEASE)
        paused.set()
        woken.wait()

    def late() -> None:
        with suppress(FungiError):  # its lease was lost, or the claim refused
            write(place(Pauses(first, asleep)), 1)
        tried.set()

    def wake() -> None:
        woken.set()
        tried.wait(1.0)  # it may wait for the short lock, which this one has

    thread = threading.Thread(target=late)
    thread.start()
    paused.wait()
    with suppress(FungiError):  # the late one came first, and has it again
        write(place(Pauses(second, wake)), 2)
    woken.set()
    thread.join()


@pytest.mark.slow
def test_a_late_put_between_those_of_the_next_owner(short_leases: None) -> None:
    """The late writer goes on at any point of the next owner's work, who then finishes it."""
    prepare()
    blank = contents()
    count = points_of(lambda backend: write(backend, 1))
    for first in range(0, count, 2):
        for second in range(0, count, 3):
            forget_buckets()
            for key, data in blank.items():
                open_bucket(WHERE).put(key, data)
            interleave(first, second)
            write(place(), 3)
            Store.open(WHERE).sweep()
            where = (first, second)
            assert verify_store(WHERE).findings == (), where
            assert len(Store.open(WHERE).arrays("set")["embeddings"].commits()) == UNITS, where
            assert len(Store.open(WHERE).failures()) == UNITS, where


@pytest.mark.parametrize(
    "key", ["", "features.zarr/set", "commits/set/embeddings/00000001.json", "failures.jsonl"]
)
def test_who_has_lost_a_lease_removes_nothing(short_leases: None, key: str) -> None:
    """Neither an object, nor a folder, nor all: what is there is the next owner's by then."""
    prepare()
    pauses, after = Pauses(), {}
    late = Store.open(place(pauses))
    with late.writing(*(["features/set"] if key else [])):
        pauses.running.clear()  # nor does it renew
        time.sleep(LEASE)
        write(place(), 2)
        after.update(contents())
        pauses.running.set()
        with pytest.raises(LeaseLostError):
            late.backend.remove(key)
    assert contents() == after
    assert verify_store(WHERE).findings == ()


def test_a_lease_that_ran_out_holds_while_nobody_took_it(short_leases: None) -> None:
    """A laptop that was suspended goes on with its work."""
    prepare()
    write(place(Pauses(20, lambda: time.sleep(3 * LEASE))), 1)
    assert verify_store(WHERE).findings == ()


# --- claims


def test_two_writers_of_the_same_thing_and_of_two_slices() -> None:
    """The second is refused and told until when; other slices of the same count are not."""
    prepare()
    first, second = Store.open(place(seconds=60)), Store.open(place(seconds=60))
    with first.writing("features/set", part=Slice(0, 2)):
        with second.writing("features/set", part=Slice(1, 2)):
            assert len(first.writers()) == 2
        with (
            pytest.raises(FungiError, match=r"free in 6\d s if its owner has died"),
            second.writing("features/set", part=Slice(0, 2)),
        ):
            pass
    with second.writing():
        pass


def test_a_claim_lasts_as_long_as_it_is_renewed(short_leases: None) -> None:
    """Three times the lease later the owner has it still; after its death another takes it."""
    prepare()
    dead = place()
    with Store.open(place()).writing("features/set") as held:
        time.sleep(3 * LEASE)
        with pytest.raises(FungiError, match="another process"), held.writing("features"):
            pass
    with dead.claims.moment():
        taken = dead.claims.take(object_claims.UNKNOWN)
        taken.__enter__()
    for lease in list(dead.claims._held.values()):
        dead.claims._drop(lease)  # nobody renews it any more
    time.sleep(2 * LEASE)
    with Store.open(place()).writing():
        pass


def test_the_claim_of_a_dead_process_of_this_machine_is_free_at_once() -> None:
    """Nobody waits for a lease whose owner the system knows to be dead."""
    prepare()
    with Store.open(place(seconds=60)).writing("features/set"):
        claims = place(seconds=60).claims
        with pytest.raises(FungiError, match="another process"), Store.open(place()).writing():
            pass
        (key,) = [
            one.key for one in open_bucket(WHERE).below(object_claims.LOCKS) if one.size > 200
        ]
        seen = leases.look(open_bucket(WHERE), key)
        assert seen is not None
        assert seen.record is not None
        owner = seen.record.owner
        assert owner is not None
        dead = replace(seen.record, owner=replace(owner, started="1"))
        open_bucket(WHERE).put(key, dead.encode())
        assert claims.seen() == []
        elsewhere = replace(seen.record, owner=replace(owner, started="1", boot="another"))
        open_bucket(WHERE).put(key, elsewhere.encode())
        assert len(claims.seen()) == 1


def test_a_repetition_whose_first_answer_was_lost_is_known_again() -> None:
    """A conditional put that was done and not told is refused when repeated: it is one's own."""

    class Deaf(Bucket):
        """Every put is done twice."""

        def put(self, key, *pieces, expected=None):
            super().put(key, *pieces, expected=expected)
            return super().put(key, *pieces, expected=expected)

    prepare()
    found = Deaf(WHERE, open_bucket(WHERE).store)
    backend = ObjectBackend(found, ObjectClaims(found))
    write(backend, 1)
    assert verify_store(WHERE).findings == ()
    assert Store.open(WHERE).writers() == []


def test_a_server_that_keeps_no_condition_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """One writer works there; it is said once that two would not."""

    class Careless(Bucket):
        """A server that ignores conditions."""

        def put(self, key, *pieces, expected=None):
            return super().put(key, *pieces)

    prepare()
    found = Careless(WHERE, open_bucket(WHERE).store)
    write(ObjectBackend(found, ObjectClaims(found)), 1)
    assert [record.message for record in caplog.records if "one process" in record.message]
    assert len(caplog.records) == 1
    assert verify_store(WHERE).findings == ()


def test_a_clock_of_whole_seconds_lets_nobody_take_a_lease_that_holds() -> None:
    """S3 cuts times off: a lease is put at 10.999 and told to be of 10."""
    owner = replace(leases.Owner.me("t", 60), boot="elsewhere")
    for put in (10.0, 10.5, 10.999):
        told = datetime.fromtimestamp(int(put), UTC)
        seen = leases.Seen(Head("k", 1, None, told), leases.Record(1, 0, owner))
        for later, is_free in ((59.999, False), (65, True)):
            now = datetime.fromtimestamp(put + later, UTC)
            assert seen.is_free(lambda now=now: now) is is_free  # type: ignore[misc]
            cut = now.replace(microsecond=0)
            assert seen.is_free(lambda now=cut: now) is is_free  # type: ignore[misc]


def test_a_lease_holds_from_before_it_was_asked_for() -> None:
    """Its answer may be late: the server counts from when it has put the object."""

    class Late(Bucket):
        """A server whose answers take longer than the lease."""

        def put(self, key, *pieces, expected=None):
            state = super().put(key, *pieces, expected=expected)
            time.sleep(0.3)
            return state

    found = Late(WHERE, open_bucket(WHERE).store)
    lease = leases.Lease(found, "k", 0.2)
    assert lease.take(None, "token")
    lease.hold()
    seen = leases.look(found, "k")
    assert seen is not None
    assert seen.record is not None
    assert seen.record.renewed == 1


# --- lines


def test_lines_are_put_together_and_compacted() -> None:
    """Each addition is one small object; replacing the whole drops them, whatever kills leave."""
    backend = place()
    backend.append("a/x.jsonl", b"1\n")
    for line in (b"2\n", b"3\n"):
        backend.append("a/x.jsonl", line)
    assert backend.read("a/x.jsonl") == b"1\n2\n3\n"
    assert backend.size("a/x.jsonl") == 6
    assert backend.local_path("a/x.jsonl").read_bytes() == b"1\n2\n3\n"
    assert open_bucket(WHERE).get("a/x.jsonl") == b"1\n"
    assert backend.list("") == replace(backend.list(""), files=(), folders=("a",))
    backend.publish("a/x.jsonl", b"1\n")  # the very bytes that were continued
    assert backend.read("a/x.jsonl") == b"1\n"
    backend.append("a/x.jsonl", b"4\n")
    open_bucket(WHERE).put("a/x.jsonl", b"another\n")
    assert backend.read("a/x.jsonl") == b"another\n"
    (stale,) = backend.leftovers()
    backend.remove(stale)
    assert not list(backend.leftovers())
    backend.append("a/x.jsonl", b"5\n")
    backend.remove("a")
    assert list(open_bucket(WHERE).below()) == []


# --- over S3


def run_on(url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Write the store of these tests at a URL; return its objects."""
    monkeypatch.setitem(globals(), "WHERE", url)
    prepare()
    write(open_backend(url), 1)
    return contents()


def test_faults_change_nothing(
    s3_server: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request in ten is broken, also after it was done: the same bytes as on a disk."""
    faults = Faults(rate=0.1, timeout=0.2, seed=1)
    with proxied(s3_server, faults) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        forget_buckets()
        found = run_on(f"{bucket}/s.fungi", monkeypatch)
        assert verify_store(WHERE).findings == ()
        assert Store.open(WHERE).writers() == []
    assert sum(faults.broken.values()) > 10
    monkeypatch.setitem(globals(), "WHERE", str(tmp_path / "s.fungi"))
    prepare()
    write(open_backend(tmp_path / "s.fungi"), 1)  # type: ignore[arg-type]
    for key in found:
        if key.startswith(("features.zarr", "commits", "failures")):
            assert found[key] == (tmp_path / "s.fungi" / key).read_bytes(), key


def test_a_large_file_is_put_in_parts(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not at all where the lease was lost before its last request."""
    monkeypatch.setattr(objects, "WHOLE_BYTES", 1 << 20)
    monkeypatch.setattr("fungistore.remote.bucket.PART_BYTES", 5 << 20)
    backend = open_backend(f"{bucket}/s.fungi")
    data = np.random.default_rng(0).bytes(12 << 20)
    backend.publish_file("big", lambda path: path.write_bytes(data) and None)
    assert backend.read("big") == data

    def lost() -> None:
        raise LeaseLostError("lost")

    monkeypatch.setattr(backend.claims, "check", lost)
    with pytest.raises(LeaseLostError):
        backend.publish_file("bigger", lambda path: path.write_bytes(data) and None)
    assert not backend.has("bigger")


@pytest.mark.slow
def test_a_large_object_has_time_on_a_slow_line(
    s3_server: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What bounds a request is its silence or its size: 256 MB take minutes on some lines."""
    data = bytes(bucket_module.LARGE_BYTES + 1)
    with proxied(s3_server, Faults(latency=1.5)) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        forget_buckets()
        found = open_bucket(f"{bucket}/x", Patience(1, 1))
        with pytest.raises(OSError, match="did not answer"):
            found.put("small", b"1", expected=ABSENT)
        assert found.put("large", data, expected=ABSENT)
        with pytest.raises(FileExistsError):
            found.put("large", data, expected=ABSENT)


def test_conditions_hold_on_the_server(bucket: str) -> None:
    """What the protocol asks of it: create once, replace what was seen, and nothing else."""
    found = open_bucket(f"{bucket}/x")
    state = found.put("one", b"1", expected=ABSENT)
    for expected in (ABSENT, '"another"'):
        with pytest.raises(FileExistsError):
            found.put("one", b"2", expected=expected)
    assert found.put("one", b"3", expected=state) != state
    assert found.get("one") == b"3"


# --- what errors and settings say


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without credentials but those that a test writes, and no way to a machine's own."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")  # never the real one
    (tmp_path / ".aws").mkdir()
    return tmp_path / ".aws"


def test_keys_come_from_the_standard_files(
    aws: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Profile, region and endpoint of the two files; variables win; the keys are used."""
    (aws / "credentials").write_text(
        "[default]\naws_access_key_id = A\naws_secret_access_key = S%\n"
        "[two]\naws_access_key_id = B\naws_secret_access_key = T\naws_session_token = U\n"
    )
    (aws / "config").write_text(
        f"[default]\nregion = eu-west-1\nendpoint_url = {s3_server}\n"
        f"[profile two]\nregion = eu-west-2\nendpoint_url = {s3_server}\n"
    )
    first = settings_of("s3://x", os.environ)
    assert first["config"] == {
        "access_key_id": "A",
        "secret_access_key": "S%",
        "region": "eu-west-1",
        "endpoint": s3_server,
    }
    monkeypatch.setenv("AWS_PROFILE", "two")
    found = open_bucket(f"s3://{make_bucket(s3_server)}/x")
    found.put("k", b"1")
    assert found.get("k") == b"1"
    assert settings_of("s3://x", os.environ)["config"]["session_token"] == "U"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "C")
    monkeypatch.setenv("AWS_REGION", "us-west-1")
    config = settings_of("s3://x", os.environ)["config"]
    assert config == {"region": "us-west-1", "endpoint": s3_server}
    assert settings_of("gs://x", os.environ) == {}


@pytest.mark.parametrize("line", ["sso_session = corp", "credential_process = /bin/keys"])
def test_a_profile_without_keys_says_what_to_do(
    aws: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """Amazon's own tool gives keys as variables."""
    (aws / "config").write_text(f"[profile work]\n{line}\n")
    monkeypatch.setenv("AWS_PROFILE", "work")
    with pytest.raises(UsageError, match="export-credentials --profile work --format env"):
        open_bucket("s3://x")
    monkeypatch.setenv("AWS_PROFILE", "none")
    with pytest.raises(UsageError, match="list-profiles"):
        open_bucket("s3://y")
    monkeypatch.delenv("AWS_PROFILE")
    (aws / "credentials").write_text("aws_secret_access_key = VERYSECRET\n")
    with pytest.raises(UsageError) as caught:
        open_bucket("s3://z")
    assert "VERYSECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "variables", "words"),
    [
        ("s3://no-such-bucket/x", {}, "no such bucket"),
        ("s3://x-y-z/x", {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "did not answer"),
    ],
)
def test_errors_say_what_to_try(
    bucket: str, monkeypatch: pytest.MonkeyPatch, url: str, variables: dict[str, str], words: str
) -> None:
    """Bucket and key, in words, and no secret."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = open_bucket(url, Patience(1, 1))
    with pytest.raises(OSError, match=words) as caught:
        found.put("k", b"1")
    assert caught.value.filename == f"{url}/k"
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("Error performing HEAD http://h/b/k in 1ms - Received redirect without LOCATION, this "
         "normally indicates an incorrectly configured region", "another region"),
        ("Error performing HEAD http://h/b/k in 1ms - Server returned non-2xx status code: "
         "400 Bad Request: ", "session token"),
    ],
)  # fmt: skip
def test_refusals_without_a_reason_have_words(said: str, words: str) -> None:
    """The answer to a HEAD has no body, and HEAD is what is asked first."""
    number, told = refusal(Exception(f"Generic S3 error: {said}"))
    assert words in told
    assert "AWS_REGION" in told
    assert number == errno.EACCES


def test_want_of_credentials_is_said(aws: Path, s3_server: str) -> None:
    """Nothing is asked of anybody else than the (here absent) machine's own service."""
    (aws / "config").write_text(f"[default]\nregion = us-east-1\nendpoint_url = {s3_server}\n")
    with pytest.raises(PermissionError, match="AWS_PROFILE"):
        open_bucket("s3://x-y-z", Patience(1, 1)).find("k")


def test_urls_are_shown_without_secrets() -> None:
    """Users and signatures of URLs are in no place's name, and in no error's text."""
    assert shown("https://me:word@host/x?sig=abc#d") == "https://host/x"
    assert without_secrets("at https://me:word@host/x?sig=abc said") == "at https://host/x said"
