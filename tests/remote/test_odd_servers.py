"""Servers that are silent, keep versions, are none, or repeat secrets; buckets with odd keys."""

from __future__ import annotations

import http.server
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from counting import CountingBucket

import fungistore as fungi
from feature_world import clustered, make_store
from fungistore.errors import StoppedError, UnreachableError, UsageError
from fungistore.machine.context import QUIET
from fungistore.remote import bucket as buckets
from fungistore.remote import machine_keys, waiting
from fungistore.remote.bucket import ABSENT, Bucket, ChangedError, forget_buckets, open_bucket
from fungistore.remote.heads import tag_of
from fungistore.remote.waiting import Waiting
from fungistore.sources.opening import open_source
from fungistore.store.object_claims import ObjectClaims
from fungistore.store.objects import ObjectBackend
from s3_world import bucket, environment, s3_server  # noqa: F401
from serving import Serving
from stage_world import FUNGI

SECRET = "the-token-of-a-session"


class Answering(Serving):
    """A server that answers every request in one way, while a block runs."""

    def __init__(self, status: int, body: bytes, **headers: str) -> None:
        asked: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

            def answer(self) -> None:
                asked.append(self.command)
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
            setattr(Handler, f"do_{method}", Handler.answer)
        self.asked = asked
        super().__init__(Handler)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """An environment with keys and without files, in which nothing is repeated."""
    for name, value in environment("").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(buckets, "RETRIES", 0)
    forget_buckets()
    yield monkeypatch
    forget_buckets()


def at(patient: pytest.MonkeyPatch, endpoint: str) -> Bucket:
    """Return a bucket of a server."""
    patient.setenv("AWS_ENDPOINT_URL", endpoint)
    forget_buckets()
    return open_bucket("s3://some/folder")


def every_request(place: Bucket, file: Path) -> Iterator[tuple[str, BaseException | None]]:
    """Make a request of each kind, and yield what it raises."""
    file.write_bytes(b"x" * 1000)
    for name, call in {
        "get": lambda: place.get("k"),
        "range": lambda: place.get_range("k", 0, 5),
        "head": lambda: place.head("k"),
        "below": lambda: [*place.below()],
        "level": lambda: place.level(),
        "put": lambda: place.put("k", b"x"),
        "create": lambda: place.put("k", b"x", expected=ABSENT),
        "parts": lambda: place.put_parts("k", file, lambda: None),
        "delete": lambda: place.delete(["k"]),
    }.items():
        try:
            call()
        except BaseException as error:
            yield name, error
        else:
            yield name, None


@pytest.mark.parametrize("status", [400, 401, 403, 409, 500])
@pytest.mark.parametrize("code", ["InvalidToken", "SignatureDoesNotMatch", "Whatever"])
def test_no_word_of_a_server_is_repeated(
    patient: pytest.MonkeyPatch, tmp_path: Path, status: int, code: str
) -> None:
    """Some answer with the token, or with what was signed: an error has the code alone."""
    body = f"<Error><Code>{code}</Code><Token-0>{SECRET}</Token-0></Error>".encode()
    with Answering(status, body) as endpoint:
        for name, error in every_request(at(patient, endpoint), tmp_path / "file"):
            assert isinstance(error, OSError), name
            assert error.errno is not None, name  # as of a disk, whatever obstore raises
            assert SECRET not in str(error), name
            if status == 400 and code == "Whatever" and name == "get":
                assert "(Whatever)" in str(error)


def test_a_web_page_is_no_object_store(patient: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An endpoint that is a console says 200 to everything: no store is damaged, none is empty."""
    page = b"<!doctype html><html><body>log in</body></html>"
    with Answering(200, page) as endpoint:
        place = at(patient, endpoint)
        said = {name: str(error) for name, error in every_request(place, tmp_path / "file")}
        assert all("AWS_ENDPOINT_URL" in said[name] for name in ("get", "head", "put", "parts"))
        with pytest.raises(OSError, match="no object store"):
            fungi.Store.open("s3://some/pets.fungi")
        for source in ("s3://some/images", "s3://some/a.tar", "s3://some/list.csv"):
            with pytest.raises(UnreachableError) as raised:
                open_source(source)
            assert "AWS_ENDPOINT_URL" in str(raised.value.found)


def versioned(bucket: str, s3_server: str) -> None:  # noqa: F811
    """Let a bucket keep versions."""
    boto3.client("s3", endpoint_url=s3_server).put_bucket_versioning(
        Bucket=bucket.removeprefix("s3://"), VersioningConfiguration={"Status": "Enabled"}
    )


def test_conditions_in_buckets_that_keep_versions(
    bucket: str,  # noqa: F811
    s3_server: str,  # noqa: F811
) -> None:
    """S3 tells a version of each object there, but conditions and listings go by its tag."""
    versioned(bucket, s3_server)
    place = open_bucket(bucket)
    state = place.put("k", b"1", expected=ABSENT)
    assert state == place.head("k").state
    place.put("k", b"2", expected=state)
    with pytest.raises(ChangedError):
        place.put("k", b"3", expected=state)
    (listed,) = place.below()
    assert tag_of(listed) == tag_of(place.head("k")) == tag_of(place.read("k")[1])


@pytest.mark.slow
def test_a_store_in_a_bucket_that_keeps_versions(
    bucket: str,  # noqa: F811
    s3_server: str,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is copied there, read through the cache, and written, as in any other."""
    monkeypatch.setenv("FUNGI_CACHE_DIR", str(tmp_path / "cache"))
    versioned(bucket, s3_server)
    vectors, labels = clustered(40, 3, 6)
    local = make_store(tmp_path / "s.fungi", {"embeddings": vectors}, labels)
    url = f"{bucket}/s.fungi"
    fungi.copy_store(local, url, context=QUIET)
    options = fungi.KnnOptions(k=3, holdout=0.3)
    here, there = (fungi.evaluate_knn(one, options) for one in (local, url))
    assert there.to_json()["scores"] == here.to_json()["scores"]
    there.save(QUIET)
    there.save(QUIET)  # replaces what is there
    assert fungi.verify_store(url).is_sound


def test_marks_of_folders_are_no_folders(
    bucket: str,  # noqa: F811
) -> None:
    """Consoles put empty objects `cat/` where they show folders: no class, no file, no store."""
    place = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    name = bucket.removeprefix("s3://")
    for key in ("i/", "i/train/", "i/train/cat/", "i/val/", "i/val/cat/", "i/val/dog/", "new/"):
        place.put_object(Bucket=name, Key=key, Body=b"")
    for key in ("i/train/cat/1.jpg", "i/val/cat/2.jpg", "i/train/3.jpg"):
        place.put_object(Bucket=name, Key=key, Body=b"x")
    source = open_source(f"{bucket}/i")
    assert [(one.id, one.label, one.split) for one in source] == [
        ("train/3.jpg", None, "train"),
        ("train/cat/1.jpg", "cat", "train"),
        ("val/cat/2.jpg", "cat", "val"),
    ]
    assert source.label_names() == ["cat"]
    assert source.ignored() == {"without a suffix": 1}  # i/val/dog/, a mark with nothing below
    new = open_bucket(f"{bucket}/new")
    assert ObjectBackend(new, ObjectClaims(new)).make_room()


def test_keys_that_cannot_be_asked_for_are_named(
    bucket: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    """A folder with a key `a//b` names it; in a list it is one item that is not there."""
    place = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    name = bucket.removeprefix("s3://")
    for key in ("odd/a//b.jpg", "odd/c.jpg"):
        place.put_object(Bucket=name, Key=key, Body=b"x")
    with pytest.raises(UnreachableError) as raised:
        list(open_source(f"{bucket}/odd"))
    assert "odd/a//b.jpg" in str(raised.value.found)
    assert "rename" in str(raised.value.hint)
    assert "network" not in str(raised.value)
    (tmp_path / "list.csv").write_text(f"path\n{bucket}/odd/a//b.jpg\n{bucket}/odd/c.jpg\n")
    assert [one.bytes for one in open_source(str(tmp_path / "list.csv"))] == [None, 1]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://", "names no bucket"),
        ("https:///a.tar", "names no bucket"),
        ("s3://{one,two}/a.parquet", "several buckets"),
        ("s3://{one,two}/a.tar", "several buckets"),
        ("s3://one//a.tar", "is empty"),
        ("s3://one/./a.tar", "is empty"),
        ("s3://one/../a.csv", "is empty"),
    ],
)
def test_urls_that_name_nothing(url: str, said: str) -> None:
    """They are mistakes of the command line, and no assertion, nor a folder of the disk."""
    with pytest.raises(UsageError, match=said):
        open_source(url)


def test_who_waits_is_told_once_and_can_stop(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a silent server a line is said; after `stop` nothing is waited for any more."""
    monkeypatch.setattr(waiting, "SILENT_SECONDS", 0.2)
    monkeypatch.setattr(waiting, "LOOKED_EACH", 0.05)
    never, one = threading.Event(), Waiting()
    stopped: list[BaseException] = []

    def wait() -> None:
        try:
            one.ask("the.server", never.wait)
        except StoppedError as error:
            stopped.append(error)

    threads = [threading.Thread(target=wait) for _ in range(4)]
    with caplog.at_level(logging.WARNING):
        for thread in threads:
            thread.start()
        time.sleep(0.6)
        assert [thread.is_alive() for thread in threads] == [True] * 4
        one.stop(0.3)
        for thread in threads:
            thread.join(5)
    assert len(stopped) == 4
    (said,) = (record.getMessage() for record in caplog.records)
    assert "the.server" in said
    assert one.ask("another", lambda: 5) == 5
    with pytest.raises(KeyError):
        one.ask("another", lambda: {}["nothing"])
    began = time.monotonic()
    with pytest.raises(StoppedError):  # at once, since it was given up
        one.ask("the.server", never.wait)
    assert time.monotonic() - began < 0.3
    one.go_on()
    never.set()
    assert one.ask("the.server", never.wait)


def test_a_signal_is_heard_while_a_request_is_under_way() -> None:
    """The main thread waits in Python, so that ^C ends it."""
    never = threading.Event()
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT)).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Waiting().ask("the.server", lambda: never.wait(20))
    assert time.monotonic() - began < 5
    never.set()


def test_threads_of_requests_are_used_again() -> None:
    """A hundred requests one after the other take one thread; ten at once ten."""
    one, names = Waiting(), set[int]()
    for _ in range(100):
        one.ask("x", lambda: names.add(threading.get_ident()))
    assert len(names) <= 3  # one may not be idle yet
    barrier = threading.Barrier(10)
    asking = [threading.Thread(target=one.ask, args=("x", barrier.wait)) for _ in range(10)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.slow
@pytest.mark.parametrize("words", [["status"], ["verify"]])
def test_a_silent_server_is_said_and_ends_with_an_interrupt(
    tmp_path: Path, words: list[str]
) -> None:
    """One that takes connections and says nothing: a line after seconds, and 130 after ^C."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            [*FUNGI, *words, "s3://some/x.fungi"],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment(f"http://{endpoint}")},
        )
        assert process.stderr is not None
        try:
            while f"waiting for {endpoint}" not in process.stderr.readline():
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
        finally:
            process.kill()
            process.stderr.close()


@pytest.fixture
def without_keys(
    patient: pytest.MonkeyPatch,
    s3_server: str,  # noqa: F811
) -> pytest.MonkeyPatch:
    """An environment without credentials."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patient.delenv(name)
    patient.setenv("AWS_ENDPOINT_URL", s3_server)
    patient.setenv("AWS_CONFIG_FILE", "/nowhere")
    patient.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    for name in ("http_proxy", "HTTP_PROXY"):
        patient.delenv(name, raising=False)
    return patient


def test_without_credentials_nobody_waits_for_minutes(without_keys: pytest.MonkeyPatch) -> None:
    """A machine's service that drops what it is sent, in eight threads; one that is forbidden."""
    without_keys.setattr(machine_keys, "CONNECT_SECONDS", 0.3)
    without_keys.setenv("AWS_METADATA_ENDPOINT", "http://192.0.2.1")  # of documentation: nobody's
    forget_buckets()
    place, found = open_bucket("s3://some"), list[BaseException]()

    def ask() -> None:
        try:
            place.get("k")
        except PermissionError as error:
            found.append(error)

    began = time.monotonic()
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert time.monotonic() - began < 3
    assert len(found) == 8
    assert all("AWS_ACCESS_KEY_ID" in str(error) for error in found)
    with Answering(404, b"") as service:
        without_keys.setenv("AWS_METADATA_ENDPOINT", service)
        without_keys.setenv("AWS_EC2_METADATA_DISABLED", "true")
        forget_buckets()
        with pytest.raises(PermissionError, match="AWS_ACCESS_KEY_ID"):
            open_bucket("s3://some").get("k")


def test_a_machine_that_has_such_a_service_is_asked(without_keys: pytest.MonkeyPatch) -> None:
    """The check lets obstore ask it; unsigned requests are made without any."""
    service = Answering(404, b"")
    with service as url:
        without_keys.setenv("AWS_METADATA_ENDPOINT", url)
        forget_buckets()
        with pytest.raises(OSError, match="credentials"):
            open_bucket("s3://some").get("k")
        assert service.asked
        asked = len(service.asked)
        without_keys.setenv("AWS_SKIP_SIGNATURE", "true")
        forget_buckets()
        with pytest.raises(OSError, match="no such"):
            open_bucket("s3://some").get("k")
        assert len(service.asked) == asked


def test_counting_buckets_count_each_request_once() -> None:
    """The tests' own oracle: `get` is one request, and so is `read`."""
    place = CountingBucket()
    place.put("k", b"1")
    place.get("k")
    place.read("k")
    assert place.asked["get"] == 2
