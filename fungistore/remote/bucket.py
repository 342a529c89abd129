"""The objects below one URL: looked at, read whole or in ranges, listed, put, removed.

Every call may be made by several threads at once. What goes wrong is an OSError with a number, as
from a disk: ENOENT for a missing object, EACCES for want of permission, EEXIST (`ChangedError`) for
a conditional put of an object that is another by now, EIO after obstore's retries.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from fungistore.errors import UsageError
from fungistore.extras import install_command
from fungistore.remote.forked import refuse_fork
from fungistore.remote.heads import UNKNOWN_TIME, Head, divided, unmarked
from fungistore.remote.refusals import NO_PARTS, NO_STORE, names_no_bucket, refusal
from fungistore.remote.urls import has_more, shown
from fungistore.remote.waiting import WAITING

if TYPE_CHECKING:
    from obstore.store import ObjectStore


THREADS = 32  # requests under way at once: latency is hidden by their number
RETRIES = 8
RETRY_SECONDS = 120
REQUEST_SECONDS = 60
LARGE_BYTES = 4 << 20  # of one put, which has more time: a slow line takes minutes for 256 MB
LARGE_SECONDS = 600
PART_BYTES = 32 << 20  # of 10,000 parts at most: S3's largest object is 5 TB
DELETED_AT_ONCE = 1000  # S3's limit
PAGE = 1000  # objects that a server lists at once
ABSENT: Final = "absent"  # what `put` expects of an object that must not be there

SLOW_BYTES = 500_000  # a second, of a line on which nothing is said of a long put

Bytes = bytes | memoryview
Answer = TypeVar("Answer")


class ChangedError(FileExistsError):
    """A conditional put was refused: the object is not what the caller last saw."""


class Bucket:
    """The objects below a URL, by key; use `open_bucket`.

    Args:
        url: of what all keys are below.
        store: obstore's.
        patient: returns the same with time for large puts; default: `store`.
        server: that is asked, for eyes; None: it is this process.
        check: called before a request with where it goes; raises if it need not be made.
    """

    def __init__(
        self,
        url: str,
        store: ObjectStore,
        patient: Callable[[], ObjectStore] | None = None,
        server: str | None = None,
        check: Callable[[str], None] | None = None,
    ) -> None:
        self.where = shown(url).rstrip("/")
        self.store = store
        self._patient = patient or (lambda: store)
        self._server = server
        self._check = check
        self._lists_folders: bool | None = None
        scheme = urlsplit(url).scheme
        self._is_web, self._is_numbered = scheme in ("http", "https"), scheme == "gs"
        self._state = "version" if self._is_numbered else "e_tag"

    def head(self, key: str) -> Head:
        """Look at an object."""
        try:
            return self._ask(key, lambda: self._head(_obstore().head(self.store, key)))
        except OSError as error:
            if not self._is_web or error.errno not in (errno.ENOENT, errno.EPROTO):
                raise
        return self._got(key, {"range": (0, 1)})[1]  # of a server that knows no HEAD

    def find(self, key: str) -> Head | None:
        """Look at an object, None where there is none."""
        try:
            return self.head(key)
        except FileNotFoundError:
            return None

    def get(self, key: str) -> bytes:
        """Return an object's bytes."""
        return self._got(key, None)[0]

    def read(self, key: str, start: int = 0, length: int | None = None) -> tuple[bytes, Head]:
        """Return an object's bytes, or `length` of them from `start`, and which object they are of.

        What was looked at before may be another by now: the tag that comes with the bytes tells.
        """
        return self._got(key, None if length is None else {"range": (start, start + length)})

    def fetch(self, key: str) -> tuple[Head, bytes]:
        """Return an object's bytes, and what is known of just these."""
        data, head = self._got(key, None)
        return head, data

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return `length` bytes of an object from `start`, as many as there are."""
        if not length:
            return b""
        get = _obstore().get_range
        return self._ask(key, lambda: bytes(get(self.store, key, start=start, length=length)))

    def get_ranges(self, key: str, starts: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
        """Return several ranges, of which near ones are read together."""
        get = _obstore().get_ranges
        return self._ask(
            key,
            lambda: [bytes(one) for one in get(self.store, key, starts=starts, lengths=lengths)],
        )

    def put(self, key: str, *pieces: Bytes, expected: str | None = None) -> str | None:
        """Let an object appear whole; returns its state, as `Head.state` does.

        Args:
            key: of the object.
            pieces: its bytes.
            expected: the state that the object must still have, or ABSENT; default: whatever is
                there is replaced.

        Raises:
            ChangedError: it is not what was expected; nothing was put.
        """
        mode: Any = "overwrite"
        if expected is not None:
            mode = "create" if expected == ABSENT else {self._state: expected}
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        size = memoryview(data).nbytes
        store = self._patient() if size > LARGE_BYTES else self.store

        def call() -> str | None:
            found: str | None = _obstore().put(store, key, data, mode=mode)[self._state]
            return found

        return self._ask(key, call, size)

    def put_parts(self, key: str, path: Path, check: Callable[[], None]) -> None:
        """Let a large file appear whole, which is sent in parts, on no condition.

        Args:
            key: of the object.
            path: of the file.
            check: called when all parts but the last are there, right before the object appears.
        """
        open_writer = _obstore().open_writer
        with path.open("rb") as file:
            store = self._patient()
            writer = self._ask(key, lambda: open_writer(store, key, buffer_size=PART_BYTES))
            while data := file.read(PART_BYTES):
                self._ask(key, partial(writer.write, data), len(data))
            check()  # where it raises, the upload stays unfinished, and no object appears
            self._ask(key, writer.close, PART_BYTES)

    def get_all(self, keys: Sequence[str]) -> Iterator[bytes]:
        """Yield the bytes of several objects in their order, many requests under way at once."""
        with ThreadPoolExecutor(min(THREADS, max(1, len(keys)))) as pool:
            yield from pool.map(self.get, keys)

    def below(self, prefix: str = "") -> Iterator[Head]:
        """Yield all objects below a folder, at any depth."""
        for page in self._pages(prefix):
            yield from page

    def level(self, prefix: str = "") -> tuple[list[Head], list[str]]:
        """Return the objects directly below a folder, and the names of the folders there.

        Some servers (s3rver 3.7) leave folders out. Until two were listed, the first objects
        below are looked at, which may be all; if these are in folders that are left out, all
        objects are listed from then on.
        """
        prefix = prefix.rstrip("/")
        if self._lists_folders is not False:
            seen: set[str] = set()
            if self._lists_folders is None:
                first = next(self._pages(prefix, chunk_size=PAGE), [])
                if len(first) < PAGE:
                    return divided(first, prefix)
                seen = set(divided(first, prefix)[1])
            found = self._ask(
                prefix, lambda: _obstore().list_with_delimiter(self.store, prefix or None)
            )
            names = [one.rstrip("/").rpartition("/")[2] for one in found["common_prefixes"]]
            if not seen <= set(names):
                self._lists_folders = False
            elif len(seen) > 1:
                self._lists_folders = True
            if self._lists_folders is not False:
                return unmarked(map(self._head, found["objects"]), names, prefix)
        return divided(self.below(prefix), prefix)

    def _head(self, meta: Any) -> Head:
        """Return what obstore tells; a bucket of S3 or Azure that keeps versions tells one, too.

        Raises:
            OSError: neither tag nor time is told, which every object store does.
        """
        if meta["e_tag"] is None and meta["last_modified"] == UNKNOWN_TIME and not self._is_web:
            raise OSError(errno.EPROTO, NO_STORE, f"{self.where}/{meta['path']}")
        version = meta["version"] if self._is_numbered else None
        return Head(meta["path"], meta["size"], meta["e_tag"], meta["last_modified"], version)

    def _got(self, key: str, options: Any) -> tuple[bytes, Head]:
        def call() -> tuple[bytes, Head]:
            found = _obstore().get(self.store, key, options=options)
            return bytes(found.bytes()), replace(self._head(found.meta), key=key)

        return self._ask(key, call)

    def _pages(self, prefix: str, **options: int) -> Iterator[list[Head]]:
        """Yield the objects below a folder, some at once."""
        pages = iter(_obstore().list(self.store, prefix=prefix or None, **options))
        while page := self._ask(prefix, lambda: next(pages, None)):
            yield list(map(self._head, page))

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects, those that are there."""
        for start in range(0, len(keys), DELETED_AT_ONCE):
            some = list(keys[start : start + DELETED_AT_ONCE])
            try:
                self._ask(some[0], partial(_obstore().delete, self.store, some))
            except FileNotFoundError:
                continue

    def _ask(self, key: str, call: Callable[[], Answer], size: int = 0) -> Answer:
        """Return what a call of obstore's returns; `size` is how many bytes it sends."""
        with self.told(key):
            if self._server is None:
                return call()
            if self._check is not None:
                self._check(f"{self.where}/{key}".rstrip("/"))
            return WAITING.ask(self._server, call, size / SLOW_BYTES)

    @contextmanager
    def told(self, key: str) -> Iterator[None]:
        """Turn obstore's errors into those of a disk; obstore's own texts may have signatures."""
        refuse_fork()
        where = f"{self.where}/{key}".rstrip("/")
        errors = _obstore().exceptions
        try:
            yield
        except FileNotFoundError as error:
            if names_no_bucket(error):
                raise OSError(*refusal(error), where) from None
            raise FileNotFoundError(errno.ENOENT, "there is no such object", where) from None
        except (errors.AlreadyExistsError, errors.PreconditionError):
            raise ChangedError(errno.EEXIST, "the object is another by now", where) from None
        except errors.NotSupportedError:
            raise OSError(errno.ENOTSUP, NO_PARTS, where) from None
        except errors.BaseError as error:
            raise OSError(*refusal(error), where) from None
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise OSError(*refusal(error), where) from None  # of a file in parts, of an odd key


@dataclass(frozen=True)
class Patience:
    """How long one request, and all its repetitions together, may take, in seconds."""

    request: float = REQUEST_SECONDS
    together: float = RETRY_SECONDS


@cache
def open_bucket(url: str, patience: Patience = Patience()) -> Bucket:
    """Return the bucket of a URL; nothing is asked of the server yet.

    Credentials come from the environment and the standard files of each service.

    Args:
        url: of what all keys are below.
        patience: with the server; objects in memory need none.

    Raises:
        UsageError: obstore is not installed, or the URL is none of those that it knows.
    """
    from fungistore.remote.credentials import settings_of
    from fungistore.remote.machine_keys import machine_check

    errors = _obstore().exceptions
    if has_more(url):
        raise UsageError(
            "the URL of a bucket is a place alone",
            where=shown(url),
            found="keys, a query, or a fragment in it",
            expected="SCHEME://BUCKET/FOLDER without @, ? and #",
            hint="credentials come from the environment and the standard files",
        )
    if urlsplit(url).scheme == "memory":
        return Bucket(url, _memory(url))
    settings = settings_of(url, os.environ)  # of now: the environment may be another later
    long = Patience(*(max(LARGE_SECONDS, one) for one in (patience.request, patience.together)))
    try:
        store = _connect(url, patience, settings)
    except (errors.BaseError, ValueError) as error:
        raise UsageError(
            "not the URL of a bucket or of a web server",
            where=shown(url),
            expected="s3://BUCKET/..., gs://, az://, https://, or memory://NAME in one process",
            found=refusal(error)[1],
        ) from None  # the text may have the whole URL
    server = urlsplit(settings.get("config", {}).get("endpoint", "")).netloc or shown(url)
    check = machine_check(settings["config"], os.environ) if "config" in settings else None
    return Bucket(url, store, cache(lambda: _connect(url, long, settings)), server, check)


def _connect(url: str, patience: Patience, settings: Mapping[str, Any]) -> ObjectStore:
    client = {"timeout": timedelta(seconds=patience.request), **settings.get("client_options", {})}
    retries = {
        "max_retries": RETRIES,
        "retry_timeout": timedelta(seconds=patience.together),
    }
    others = {name: value for name, value in settings.items() if name != "client_options"}
    opened, scheme = _obstore().store.from_url, urlsplit(url).scheme
    if scheme in ("http", "https"):  # of a service's own host, too: who gives this has no account
        opened = _obstore().store.HTTPStore.from_url
        client |= {"allow_http": scheme == "http"}
    store: ObjectStore = opened(url, client_options=client, retry_config=retries, **others)
    return store


@cache
def _memory(url: str) -> ObjectStore:
    """Return the objects in memory of one name."""
    store: ObjectStore = _obstore().store.MemoryStore()
    return store


def forget_buckets() -> None:
    """Open every bucket anew from here on, as another environment says; drop those in memory."""
    open_bucket.cache_clear()
    _memory.cache_clear()


def _obstore() -> Any:
    try:
        import obstore
        import obstore.store
    except ImportError as error:
        raise UsageError(
            "URLs need the package obstore",
            expected="the extra fungistore[remote]",
            hint=install_command("remote", "obstore"),
        ) from error
    return obstore
